"""A handful of images in each published layout, made from synthetic scenes."""

import json

import numpy as np
from degmix_training.data import synthetic
from PIL import Image
from scipy.io import savemat

SIZE = (48, 64)
IDS = {"train": ["0001", "0002", "0003", "0004"], "val": ["0005", "0006"]}
PART_NAMES = {1: "hair", 2: "torso", 3: "luarm", 4: "rhand", 5: "ruleg", 6: "lfoot"}


def scene(name, size=SIZE):
    return synthetic.render(500 + int(name), *size)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path, quality=95)


def encoded(normals):
    return np.rint((normals + 1) * 127.5).astype(np.uint8)


def semseg_of(sample):
    """Classes with a strip that is not labelled."""
    label = sample.semseg.copy()
    label[:2] = 255
    return label


def nyud(root, layout="NYUDv2"):
    image, other = (".png", ".png") if layout == "NYUDv2" else (".jpg", ".npy")
    for split, ids in IDS.items():
        (root / "gt_sets").mkdir(parents=True, exist_ok=True)
        (root / "gt_sets" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            s = scene(name)
            label = semseg_of(s)
            save(root / "images" / f"{name}{image}", s.image)
            stored = np.where(label == 255, 0, label + 1).astype(np.uint8)
            save(root / "segmentation" / f"{name}.png", stored)
            save(root / "depth" / f"{name}.npy", s.depth)
            normals = encoded(s.normals) if other == ".png" else s.normals
            save(root / "normals" / f"{name}{other}", normals)
            edge = s.edge * np.uint8(255) if other == ".png" else s.edge.astype(np.float32)
            save(root / "edge" / f"{name}{other}", edge)
    return root


def pascal(root):
    for split, ids in IDS.items():
        (root / "ImageSets/Context").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Context" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            s = scene(name)
            save(root / "JPEGImages" / f"{name}.jpg", s.image)
            folder = "VOC12" if int(name) % 2 else "pascal-context"
            save(root / "semseg" / folder / f"{name}.png", s.semseg)
            save(root / "normals_distill" / f"{name}.png", encoded(s.normals))
            save(root / "sal_distill" / f"{name}.png", s.saliency * np.uint8(255))
            (root / "pascal-context/trainval").mkdir(parents=True, exist_ok=True)
            savemat(root / "pascal-context/trainval" / f"{name}.mat", {"LabelMap": s.semseg + 1})
            (root / "human_parts").mkdir(exist_ok=True)
            savemat(root / "human_parts" / f"{name}.mat", {"anno": anno(s)})
    return root


def anno(sample):
    parts = [
        {"part_name": PART_NAMES[part], "mask": (sample.human_parts == part).astype(np.uint8)}
        for part in np.unique(sample.human_parts)
        if part
    ]
    mask = (sample.human_parts > 0).astype(np.uint8)
    person = {"class": "person", "mask": mask, "parts": parts}
    return {"objects": [{"class": "chair", "mask": mask, "parts": []}, person]}


def cityscapes(root):
    for split, ids in IDS.items():
        for name in ids:
            s, stem = scene(name), f"{split}/town/town_{name}"
            save(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", s.image)
            ids_of = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22], np.uint8)
            label = ids_of[s.semseg]
            label[:2] = 4  # a label id that is not scored
            save(root / "gtFine" / f"{stem}_gtFine_labelIds.png", label)
            disparity = 0.2 * 600 / s.depth
            stored = np.rint(disparity * 256 + 1).astype(np.uint16)
            stored[:, :3] = 0
            save(root / "disparity" / f"{stem}_disparity.png", stored)
            camera = root / "camera" / f"{stem}_camera.json"
            camera.parent.mkdir(parents=True, exist_ok=True)
            values = {"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 600.0}}
            camera.write_text(json.dumps(values))
    return root


def folder(root, size=SIZE):
    root.mkdir(parents=True, exist_ok=True)
    classes = ", ".join(synthetic.CLASSES["semseg"])
    (root / "classes.yaml").write_text(f"semseg: [{classes}]\n")
    for split, ids in IDS.items():
        for name in ids:
            s = scene(name, size)
            save(root / split / "images" / f"{name}.png", s.image)
            save(root / split / "semseg" / f"{name}.png", semseg_of(s))
            save(root / split / "human_parts" / f"{name}.png", s.human_parts)
            save(root / split / "saliency" / f"{name}.png", s.saliency)
            save(root / split / "edge" / f"{name}.png", s.edge * np.uint8(255))
            save(root / split / "normals" / f"{name}.npy", s.normals)
            save(root / split / "depth" / f"{name}.png", (s.depth * 1000).astype(np.uint16))
    return root


LAYOUTS = {"nyud": nyud, "pascal_context": pascal, "cityscapes": cityscapes, "folder": folder}
