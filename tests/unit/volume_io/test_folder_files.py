"""What is met below a folder: everything once, links followed, nothing silently missing."""

from medai.volume_io.folder_files import find_files


def relative(found, folder):
    return [str(path.relative_to(folder)) for path in found.files]


def test_links_to_folders_and_files_are_followed(tmp_path):
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "p1").symlink_to(tmp_path / "store", target_is_directory=True)
    (chosen / "p2").symlink_to(tmp_path / "b")
    assert relative(find_files(chosen), chosen) == ["p1/deep/a", "p2"]


def test_a_loop_ends_and_what_is_linked_twice_is_met_once(tmp_path):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "scan").write_text("a")
    (tmp_path / "p1" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a_link").symlink_to(tmp_path / "p1", target_is_directory=True)
    (tmp_path / "p1" / "again").symlink_to(tmp_path / "p1" / "scan")
    found = find_files(tmp_path)
    assert relative(found, tmp_path) == ["p1/scan"]
    assert found.unreachable == ()


def test_hidden_things_are_passed_over(tmp_path):
    (tmp_path / ".medai").mkdir()
    for name in (".medai/scan", "._scan", ".hidden", "seen"):
        (tmp_path / name).write_text("x")
    assert relative(find_files(tmp_path), tmp_path) == ["seen"]


def test_a_broken_link_and_a_link_in_a_circle_are_told(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = find_files(tmp_path)
    assert [each.path.name for each in found.unreachable] == ["gone", "self"]
    assert "git annex get" in found.unreachable[0].reason
    assert "leads nowhere" in found.unreachable[1].reason
    assert found.files == ()


def test_what_is_passed_over_is_not_entered(tmp_path):
    (tmp_path / "labels" / "final").mkdir(parents=True)
    (tmp_path / "labels" / "final" / "x").write_text("x")
    (tmp_path / "y").write_text("y")
    asked = []
    found = find_files(tmp_path, pass_over=lambda path: asked.append(path.name) or path.name == "labels")
    assert relative(found, tmp_path) == ["y"]
    assert asked == ["labels", "y"]
