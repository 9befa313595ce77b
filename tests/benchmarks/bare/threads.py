"""A bare falcon WSGI application: one INSERT, or one SELECT by primary key, through a pool. For gunicorn's gthread."""

import os
from uuid import UUID, uuid4

import falcon
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

pool = ConnectionPool(
    os.environ["BARE_DATABASE"],
    kwargs={"autocommit": True},
    min_size=int(os.environ["BARE_POOL"]),
    max_size=int(os.environ["BARE_POOL"]),
    open=False,
)


class Documents:
    """Keeps documents."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Inserts one."""
        document, key = req.get_media(), uuid4()
        with pool.connection() as connection:
            connection.execute("insert into documents (id, body) values (%s, %s)", (key, Jsonb(document)))
        resp.status = 201
        resp.media = {"id": str(key)}


class Document:
    """One document."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: UUID) -> None:
        """Selects it."""
        with pool.connection() as connection:
            row = connection.execute("select body from documents where id = %s", (key,)).fetchone()
        if row is None:
            raise falcon.HTTPNotFound
        resp.media = row[0]


class Ready:
    """Whether it serves."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Yes."""


def create_app() -> falcon.App:
    """Called by each worker after the fork."""
    pool.open(wait=True)
    app = falcon.App()
    app.add_route("/documents", Documents())
    app.add_route("/documents/{key:uuid}", Document())
    app.add_route("/ready", Ready())
    return app
