"""The guard in conftest.py guards."""

import socket

import pytest


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_other_machines_cannot_be_reached(method):
    with socket.socket() as connection, pytest.raises(RuntimeError, match="192.0.2.1"):
        getattr(connection, method)(("192.0.2.1", 80))


def test_this_machine_can():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
