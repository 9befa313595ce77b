"""`python -m api.cli`: the same as `deskledger`."""

import sys

from api.cli.command_line import main

sys.exit(main())
