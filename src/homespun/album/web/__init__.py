"""The album in a browser: server-rendered pages for TV, phone and PC, and a REST API. The door is `create_app`."""

from homespun.album.web.app import create_app

__all__ = ["create_app"]
