"""The page of `pysandbox compare`, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchdocument import bench, contender, finding
from browser import dump, picture
from precondition import requires

from pysandbox.compare.page import page

#: What a bundle, a runtime or a sandbox might say.
HOSTILE = "\"'></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{ 7*7 }}"
CHARTS = {"life", "throughput", "growth", "memory", "density", "inside"}


def comparison(**more) -> dict:
    """A comparison of two contenders, in which everything that is somebody else's text is hostile."""
    values = {
        name: {"runc": [20.0 + n for n in range(10)], "namespaces": [9.0 + n for n in range(10)], "host": [1.0] * 10}
        for name in ("start to exit", "start to first byte", "inside: cpu", "inside: TCP stream")
    }
    for name in ("throughput, 1 at once", "throughput, 8 at once", "memory, run waits", "create and start, 1 there",
                 "create and start, 5 there", "memory of each, 1 there", "memory of each, 5 there"):  # fmt: skip
        values[name] = {"runc": [5.0], "namespaces": [7.0]}
    contenders = [
        contender("host", "host"),
        contender("namespaces", "backend", version=HOSTILE, note=HOSTILE, accelerator="emulation (tcg)"),
        contender("runc", "runtime", version=HOSTILE),
    ]
    words = [{"contender": "runc", "scenario": "inside: cpu", "times": 1, "text": HOSTILE}]
    measured = bench(values, contenders, bundle=f"/tmp/{HOSTILE}", missing={"crun": HOSTILE}, notes=[HOSTILE],
                     failures=words, changes=[HOSTILE])  # fmt: skip
    hostile = finding("seccomp.mode", "weak", how=HOSTILE, observed=HOSTILE, why=HOSTILE, group=HOSTILE)
    audits = [
        {"contender": "namespaces", "backend": "namespaces", "failure": "", "findings": [hostile, finding("uid")]},
        {"contender": "runc", "backend": "oci:runc", "failure": HOSTILE, "findings": []},
    ]
    return {"version": 1, "kind": "comparison", "bench": measured, "audits": audits} | more


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The document and the picture of a comparison's page."""
    requires("command chromium")
    place = tmp_path_factory.mktemp("page")
    (place / "page.html").write_text(page(comparison()))
    return dump(place / "page.html", place / "profile"), picture(
        place / "page.html", place / "profile", place / "picture.png"
    )


def test_every_chart_is_drawn(shown) -> None:
    document, _ = shown
    drawn = set(re.findall(r'data-chart="(\w+)"[^>]*data-drawn="yes"', document))

    assert drawn == CHARTS
    assert document.count('class="main-svg"') >= len(CHARTS)


def test_nothing_that_somebody_said_becomes_a_part_of_the_page(shown) -> None:
    document, _ = shown
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)

    assert title is not None
    assert title.group(1).startswith("pysandbox compare: /tmp/")  # and not: owned
    assert "<img" not in document
    assert "49" not in title.group(1)


def test_the_browser_would_have_obeyed(tmp_path: Path) -> None:
    requires("command chromium")
    (tmp_path / "page.html").write_text(f"<title>mine</title><p>{HOSTILE}</p>")

    assert "<title>owned</title>" in dump(tmp_path / "page.html", tmp_path / "profile")


def test_a_script_that_got_into_the_page_would_not_run(tmp_path: Path) -> None:
    requires("command chromium")
    text = page(comparison()).replace("<h1>", "<script>document.title='owned'</script><h1>")
    (tmp_path / "page.html").write_text(text)

    assert "<title>owned</title>" not in dump(tmp_path / "page.html", tmp_path / "profile")


def test_the_page_shows_who_what_and_what_not(shown) -> None:
    document, _ = shown

    for text in ("namespaces starts and ends a container in 13.5 ms, runc in 24.5", "the processor was emulated",
                 "What this does not say", "Left out, in their own words", "seccomp.mode", "not audited"):  # fmt: skip
        assert text in document


def test_the_picture_is_one_of_a_page_and_not_blank(shown) -> None:
    _, image = shown

    assert image.startswith(b"\x89PNG")
    assert len(image) > 60_000  # a white page of this size has less than 20,000


def test_the_page_needs_no_other_file() -> None:
    text = page(comparison())
    markup = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)

    assert re.findall(r"<(?:link|iframe|object|embed)\b", markup) == []
    assert re.findall(r"<\w+[^>]*\s(?:src|href)\s*=", markup) == []
    assert "default-src 'none'" in text


def test_a_page_of_nothing_says_so() -> None:
    nothing = bench({}, [contender("host", "host")], baseline=None, interrupted=True)

    text = page({"version": 1, "kind": "comparison", "bench": nothing, "audits": []})

    assert "Nothing could be measured" in text
    assert "interrupted" in text
