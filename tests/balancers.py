"""HAProxy, which asks each replica's /readyz, and nginx, which goes by 503, in front of replicas on this machine."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

BALANCERS = ("haproxy", "nginx")
# HAProxy asks each replica so often, and waits as long for an answer.
CHECK_MS = 500


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def balancing(
    program: str, folder: Path, ports: Sequence[int], patience_s: int = 60
) -> AsyncGenerator[str, None]:
    """The URL at which a balancer answers, in front of the services on these ports; the test is skipped without it.

    Answers say in `x-replica` whose they are: the port. Of a replica that says nothing for `patience_s` no answer is
    awaited any more: HAProxy answers 504, nginx asks another and leaves that one be for a while.
    """
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"no {program} here: apt-get install nginx-light haproxy")
    port = free_port()
    configure, options = {
        "haproxy": (_haproxy, ["-f", "balancer.conf"]),
        "nginx": (_nginx, ["-p", ".", "-c", "balancer.conf"]),
    }[program]
    (folder / "balancer.conf").write_text(configure(port, ports, patience_s))
    process = await asyncio.create_subprocess_exec(found, *options, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        await _listens(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _haproxy(port: int, ports: Sequence[int], patience_s: int) -> str:
    # Without `on-marked-down shutdown-sessions`, which would cut off what a replica that drains still answers.
    servers = "\n".join(f"  server {each} 127.0.0.1:{each} check inter {CHECK_MS}ms fall 1 rise 1" for each in ports)
    return f"""
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server {patience_s}s
  timeout check {CHECK_MS}ms
  option redispatch
  retries 3
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  balance leastconn
  http-response set-header x-replica %s
  option httpchk GET /readyz
  http-check expect status 200
{servers}
"""


def _nginx(port: int, ports: Sequence[int], patience_s: int) -> str:
    # By default one that drains is tried each time: it says 503 at once, and its questions go to the next.
    after = "max_fails=0" if patience_s >= 60 else f"max_fails=1 fail_timeout={4 * patience_s}s"
    servers = "\n".join(f"    server 127.0.0.1:{each} {after};" for each in ports)
    return f"""
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream out {{
    least_conn;
{servers}
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://out;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout {patience_s}s;
      proxy_next_upstream error timeout http_503 non_idempotent;
      add_header x-replica $upstream_addr always;
    }}
  }}
}}
"""
