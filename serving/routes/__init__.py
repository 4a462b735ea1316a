"""The routes of the HTTP interface, each a router over the parts of a server."""
