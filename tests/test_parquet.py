"""Parquet data files: the same rows as JSONL, streamed, under the names that the dataset gave them."""

import json
import sys
from pathlib import Path

import pytest

from trimtab.tasks.data.examples import each_pair, each_text, examples_of
from trimtab.tasks.data.parquet import BATCH, read_parquet
from trimtab.tasks.data.rows import read_rows
from trimtab.tasks.errors import DataError, RecipeError
from trimtab.tasks.recipes.kinds import load_recipe

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

PAIRS = [{"prompt": f"Question {k}?", "positive": f"Yes, {k}!", "negative": f"No, {k}."} for k in range(24)]
THEIRS = [{"id": k, "question": r["prompt"], "good": r["positive"], "bad": r["negative"]} for k, r in enumerate(PAIRS)]
COLUMNS = {"prompt": "question", "positive": "good", "negative": "bad"}


def written(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_same_rows_as_jsonl(tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, PAIRS) for name in ("a.jsonl", "a.parquet"))
    assert list(each_pair(one)) == list(each_pair(other))
    chats = [
        {"messages": [{"role": "user", "content": f"q{k}"}, {"role": "assistant", "content": f"a{k}"}]}
        for k in range(9)
    ]
    one, other = (written(tmp_path / name, chats) for name in ("b.jsonl", "b.parquet"))
    assert list(each_text(one)) == list(each_text(other))


@pytest.mark.parametrize("name", ["hub.parquet", "hub.jsonl"])
def test_a_dataset_keeps_its_own_column_names(tmp_path: Path, name: str) -> None:
    file = written(tmp_path / name, THEIRS)
    assert list(each_pair(file, columns=COLUMNS)) == list(each_pair(written(tmp_path / "ours.jsonl", PAIRS)))
    with pytest.raises(DataError, match="unknown key 'id'"):
        list(each_pair(file))


def test_rows_come_a_batch_at_a_time(tmp_path: Path) -> None:
    """Only what was asked for has been read: the damage behind it is not noticed before its turn."""
    file = written(tmp_path / "long.parquet", [{"text": f"Sentence {k}."} for k in range(4 * BATCH)])
    rows = read_parquet(file, "long.parquet")
    assert next(rows) == (1, {"text": "Sentence 0."})
    assert sum(1 for _ in rows) == 4 * BATCH - 1


def test_a_recipe_over_a_dataset(tmp_path: Path) -> None:
    written(tmp_path / "hub.parquet", THEIRS), written(tmp_path / "ours.jsonl", PAIRS)
    columns = "{" + ", ".join(f"{ours}: {theirs}" for ours, theirs in COLUMNS.items()) + "}"
    (tmp_path / "hub.yaml").write_text(f"name: tone\ndata: {{pairs: hub.parquet, columns: {columns}}}\n")
    (tmp_path / "ours.yaml").write_text("name: tone\ndata: {pairs: ours.jsonl}\n")
    hub, ours = (load_recipe(tmp_path / name) for name in ("hub.yaml", "ours.yaml"))
    assert examples_of(hub.data) == examples_of(ours.data)
    assert hub.stage("capture") != ours.stage("capture"), "other bytes, other recipe"
    with pytest.raises(RecipeError, match="data.columns: unknown key 'promt'; did you mean 'prompt'"):
        load_recipe(tmp_path / "hub.yaml", ["data.columns={promt: question}"])
    with pytest.raises(DataError, match="data.columns names 'answer', the file has id, question, good, bad"):
        load_recipe(tmp_path / "hub.yaml", ["data.columns={prompt: question, positive: answer, negative: bad}"])


def test_what_is_not_parquet_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"broken.parquet: not a Parquet file that can be read: "):
        list(read_rows(broken))
    whole = written(tmp_path / "whole.parquet", PAIRS)
    broken.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(DataError, match="not a Parquet file"):
        list(read_rows(broken))
    with pytest.raises(DataError, match="none.parquet: cannot be read"):
        list(read_rows(tmp_path / "none.parquet"))
    empty_cells = written(tmp_path / "null.parquet", [*PAIRS, {"prompt": "x", "positive": None, "negative": "b"}])
    with pytest.raises(DataError, match="null.parquet:25: 'positive' must be text, it is null"):
        list(each_pair(empty_cells))


def test_without_pyarrow_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "a.parquet", PAIRS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install \"trimtab\[parquet\]\""):
        list(each_pair(file))
