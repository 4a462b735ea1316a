from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.errors import ArtifactError, BadInput
from tests.trainer.evaluation.test_markdown import evaluation
from trainer.report import BEGIN, END, main, replaced, write_results

PAGE = f"# shoprec\n\n{BEGIN}\nold numbers\n{END}\n\nThe rest.\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """README and evaluation."""
    evaluation().save(tmp_path / "evaluation.json")
    readme = tmp_path / "README.md"
    readme.write_text(PAGE, encoding="utf-8")
    return readme, tmp_path / "evaluation.json"


def test_what_stands_between_the_markers_is_replaced() -> None:
    assert replaced(PAGE, "new numbers\n") == PAGE.replace("old", "new")


def test_replacing_again_changes_nothing() -> None:
    once = replaced(PAGE, "new numbers")

    assert replaced(once, "new numbers") == once


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (PAGE.replace(BEGIN, ""), "results:begin -->' 0 times"),
        (PAGE.replace(END, ""), "results:end -->' 0 times"),
        (PAGE + BEGIN, "results:begin -->' 2 times"),
        (f"{END}\n{BEGIN}\n", "stands before"),
    ],
)
def test_a_page_without_its_markers_is_refused(page: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        replaced(page, "new numbers")


def test_the_readme_gets_the_table_and_the_command(files: tuple[Path, Path]) -> None:
    assert write_results(*files) is True

    text = files[0].read_text(encoding="utf-8")
    assert text.startswith(f"# shoprec\n\n{BEGIN}\ncomplete_journey, validation")
    assert "| **SHOPREC** |" in text
    assert "Made by `python -m trainer.evaluate out=x`." in text
    assert text.endswith(f"\n{END}\n\nThe rest.\n")


def test_the_folder_of_an_evaluation_will_do(files: tuple[Path, Path]) -> None:
    assert write_results(files[0], files[1].parent) is True


def test_writing_the_same_results_again_leaves_the_file_alone(files: tuple[Path, Path]) -> None:
    write_results(*files)
    before = files[0].stat()

    assert write_results(*files) is False
    assert files[0].stat().st_mtime_ns == before.st_mtime_ns


def test_a_refused_page_stays_as_it_was(files: tuple[Path, Path]) -> None:
    files[0].write_text("# no markers\n", encoding="utf-8")

    with pytest.raises(BadInput, match=r"README\.md was left as it is"):
        write_results(*files)
    assert files[0].read_text(encoding="utf-8") == "# no markers\n"
    assert len(list(files[0].parent.iterdir())) == 2


def test_missing_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.json does not exist"):
        write_results(files[0], tmp_path / "nothing.json")
    with pytest.raises(ArtifactError, match=r"PAGE\.md cannot be read"):
        write_results(tmp_path / "PAGE.md", files[1])


def test_the_command_takes_key_and_value(files: tuple[Path, Path]) -> None:
    assert main([f"evaluation={files[1]}", f"readme={files[0]}"]) == 0
    assert "SHOPREC" in files[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [([], "Give evaluation=FILE"), (["page=x"], "'page=x' is not a setting")],
)
def test_a_wrong_command_is_told(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err
