"""A new statistic is a function that gives a Table: it then stands in every form."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
from base64 import b64decode
from dataclasses import replace
from re import findall
from typing import Any

import pytest
from report_rows import report

from lrd_harness.report import Column, Report, Table

forms: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
FORMS = {reporter.name: reporter for reporter in forms.lrd_reporters()}


def spread(held: Report) -> Table:
    """How far apart the models' scores are: a statistic that no form has heard of."""
    scores = held.table("models").column("score")
    row = {"predictor": "all models", "range": max(scores) - min(scores), "n": len(scores)}
    columns = (
        Column("predictor", key=True),
        Column("range", "range of scores", "0 to 1", form=".4f"),
        Column("n", "models"),
    )
    return Table("spread", "How far apart the models are", columns, [row], ("Not robust.",))


HELD = report()
NEW = replace(HELD, tables=(*HELD.tables, spread(HELD)))
RANGE = NEW.table("spread").rows[0]["range"]


def written(form: str, held: Report = NEW) -> str:
    text: str = FORMS[form].write(held)
    return text


@pytest.mark.parametrize("form", ["table", "md", "latex", "html"])
def test_people_see_it_with_its_unit_and_caption(form: str) -> None:
    text = written(form)
    for part in ("How far apart the models are", "(0 to 1)", f"{RANGE:.4f}", "Not robust."):
        assert part in text
    assert "How far apart the models" not in written(form, HELD)


def test_programs_get_it_in_full() -> None:
    assert json.loads(written("json"))["tables"]["spread"]["rows"][0]["range"] == RANGE
    assert written("csv", NEW.only(["spread"])) == f"predictor,range,n\nall models,{RANGE!r},8\n"


def test_the_tidy_form_has_it_as_statistics() -> None:
    files = dict(FORMS["tidy"].files(NEW))
    rows = csv.DictReader(io.StringIO(files["statistics.csv"].decode()))
    (row,) = (row for row in rows if row["about"] == "spread")
    assert (row["predictor"], row["statistic"], float(row["value"])) == (
        "all models",
        "range",
        RANGE,
    )
    assert (row["board"], float(row["n"])) == ("embedding", 8)


def test_the_page_offers_it_as_a_download() -> None:
    text = written("html")
    blocks = [json.loads(block) for block in findall(r'json" id="data-\d+">(.*?)</script>', text)]
    (block,) = (one for one in blocks if one["file"] == "spread")
    assert [column["cells"] for column in block["columns"]] == [
        ["all models"],
        [f"{RANGE:.4f}"],
        ["8"],
    ]
    packed = findall(r'gzip" id="download-1">(.*?)</script>', text)[0]
    assert "spread" in json.loads(gzip.decompress(b64decode(packed)))["tables"]
