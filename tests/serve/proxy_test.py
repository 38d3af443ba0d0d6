"""The pages behind a proxy that serves them below a path: no address may lead out of it."""

import json
import re
from urllib.parse import urljoin, urlsplit

import pytest

BELOW = "https://example.org/tools/scans/"
ADDRESSES = re.compile(r"""(?:href|src)="([^"]*)"|(?:fetch\(|from |href = )["'`]([^"'`]*)["'`]|url\(["']?([^"')]+)""")


def list_addresses(text: str) -> list[str]:
    """All addresses in a page, script or style."""
    found = ["".join(groups) for groups in ADDRESSES.findall(text)]
    return [address for address in found if not address.startswith(("data:", "#", "blob:"))]


def reach(client, address: str):
    """What the proxy answers: it removes its path, and knows no other."""
    assert address.startswith(BELOW), f"{address} leads out of the proxy's path"
    where = urlsplit(address)
    return client.get(f"/{address.removeprefix(BELOW)}" if not where.fragment else where.path)


@pytest.mark.parametrize("page", ["", "?lang=es", "model", "model?lang=es"])
def test_all_addresses_of_a_page_stay_below_the_path_of_the_proxy(client, page):
    seen, open_ = set(), [urljoin(BELOW, page)]
    while open_:
        address = open_.pop()
        if address in seen:
            continue
        seen.add(address)
        if address.endswith("/api/predict"):  # called by a script, whose addresses are relative to the page
            assert client.options("/api/predict").status_code == 200
            continue
        response = reach(client, address)
        assert response.status_code == 200, address
        kind, text = (
            response.content_type,
            response.get_data(as_text=True) if "image/png" not in response.content_type else "",
        )
        if "javascript" in kind:
            imports = [found for found in list_addresses(text) if found.startswith("./")]
            calls = [found for found in list_addresses(text) if not found.startswith("./")]
            open_ += [urljoin(address, found) for found in imports]
            open_ += [urljoin(urljoin(BELOW, page), re.sub(r"\$\{\w+\}", "en", found)) for found in calls]
        elif "html" in kind or "css" in kind:
            open_ += [urljoin(address, found) for found in list_addresses(text)]
    names = {address.removeprefix(BELOW).partition("?")[0] for address in seen}
    assert {
        "",
        "model",
        "openapi.json",
        "static/style.css",
        "static/app.js",
        "static/server.js",
        "static/icon.svg",
    } <= names
    assert {"api/predict", "sample.png"} <= names


def test_programs_find_the_interface_where_its_description_lies(client):
    description = json.loads(client.get("/openapi.json").data)
    (server,) = description["servers"]
    for path in description["paths"]:
        assert urljoin(f"{BELOW}openapi.json", server["url"]).rstrip("/") + path == f"{BELOW}{path[1:]}"
