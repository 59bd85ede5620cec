import numpy as np
import pytest

from preparation.synthetic.furniture import furniture_of_split, load_model, read_catalogues


def test_catalogue_names_labels_and_licences(furniture_root):
    entries = {entry.name: entry for entry in read_catalogues(furniture_root)}
    assert "Mini/door" not in entries and len(entries) == 9
    assert entries["Mini/table"].label == "table"
    assert entries["Mini/sofa"].attribution == "sofa (Mini/sofa) by Jane, CC-BY-3.0"


def test_models_are_upright_centred_and_of_unit_size(furniture_root):
    model = load_model(read_catalogues(furniture_root)[0])
    assert model.extents == pytest.approx([1.0, 0.5, 0.5])
    corners = np.concatenate([part.vertices for part in model.parts])
    assert corners.min(0) == pytest.approx([-0.5, -0.25, -0.25])
    assert len(model.hull) == 8
    assert model.parts[0].texture is not None and tuple(model.parts[0].texture[0, 0]) == (255, 0, 0)


def test_stated_rotation_is_applied(furniture_root):
    file = next(furniture_root.rglob("*.properties"))
    file.write_text(file.read_text() + "modelRotation#1=0 -1 0 1 0 0 0 0 1\n")
    model = load_model(read_catalogues(furniture_root)[0])
    assert model.extents == pytest.approx([0.5, 0.5, 1.0])


def test_normals_point_outwards(furniture_root):
    part = load_model(read_catalogues(furniture_root)[0]).parts[0]
    assert (np.einsum("nc,nc->n", part.normals, part.vertices) > 0).all()


def test_posed_meshes_are_turned_scaled_and_moved(furniture_root):
    model = load_model(read_catalogues(furniture_root)[0])
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    lamps = (np.array([[0, 0, 1]], np.float32), np.ones(1, np.float32))
    meshes = model.posed(turn, np.array([5, 0, 1]), 2.0, lamps)
    corners = np.concatenate([mesh.vertices for mesh in meshes])
    assert corners.min(0) == pytest.approx([4.5, -1, 0.5]) and corners.max(0) == pytest.approx([5.5, 1, 1.5])


def test_families_do_not_straddle_the_split(furniture_root):
    entries = read_catalogues(furniture_root)
    train, val = (furniture_of_split(entries, split) for split in ("train", "val"))
    assert len(train) + len(val) == len(entries) and val
    lamps = [any(e.name in ("Mini/lamp", "Mini/lamp7") for e in part) for part in (train, val)]
    assert sum(lamps) == 1


def test_unreadable_and_flat_models_are_named(furniture_root):
    entry = read_catalogues(furniture_root)[0]
    entry.path.write_text("v 0 0 0\nv 1 0 0\nv 0 0.01 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match="Mini/armchair has extents"):
        load_model(entry)
    entry.path.write_text("nothing")
    with pytest.raises(ValueError, match="Mini/armchair"):
        load_model(entry)


def test_missing_catalogue(tmp_path):
    with pytest.raises(ValueError, match="PluginFurnitureCatalog"):
        read_catalogues(tmp_path)
