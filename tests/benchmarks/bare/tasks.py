"""A bare falcon ASGI application: one INSERT, or one SELECT by primary key, through a pool. For gunicorn's asgi."""

import os
from typing import Any
from uuid import UUID, uuid4

import falcon.asgi
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

pool = AsyncConnectionPool(
    os.environ["BARE_DATABASE"],
    kwargs={"autocommit": True},
    min_size=int(os.environ["BARE_POOL"]),
    max_size=int(os.environ["BARE_POOL"]),
    open=False,
)


class Pool:
    """Opens the pool in the process that serves, and closes it."""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """In each worker."""
        await pool.open(wait=True)

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """At its end."""
        await pool.close()


class Documents:
    """Keeps documents."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Inserts one."""
        document, key = await req.get_media(), uuid4()
        async with pool.connection() as connection:
            await connection.execute("insert into documents (id, body) values (%s, %s)", (key, Jsonb(document)))
        resp.status = 201
        resp.media = {"id": str(key)}


class Document:
    """One document."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, key: UUID) -> None:
        """Selects it."""
        async with pool.connection() as connection:
            cursor = await connection.execute("select body from documents where id = %s", (key,))
            row = await cursor.fetchone()
        if row is None:
            raise falcon.HTTPNotFound
        resp.media = row[0]


class Ready:
    """Whether it serves."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Yes."""


def create_app() -> falcon.asgi.App:
    """Called by each worker after the fork."""
    app = falcon.asgi.App(middleware=[Pool()])
    app.add_route("/documents", Documents())
    app.add_route("/documents/{key:uuid}", Document())
    app.add_route("/ready", Ready())
    return app
