"""A volume's head and tumors as a 3-D surface, in the GLB format that browsers draw."""

from __future__ import annotations

import cv2
import numpy as np

from neurovision.classes import TUMORS
from neurovision.scan.study import Study

FINEST = 112  # voxels along a slice's longer side: enough for a surface, small enough for a phone
HEAD_COLOR = (150, 162, 176, 70)


def surface(study: Study, mask: np.ndarray) -> bytes | None:
    """Draw the head, translucent, and each tumor class in its color.

    The patient faces the viewer, head up, where the file tells the patient's axes; else the slices are stacked with
    one voxel between them unless the spacing is known.

    Args:
        study: A volume.
        mask: uint8 ``(S, H, W)`` of class indices.

    Returns:
        The GLB file's bytes, or None where there is nothing to draw or only one slice.
    """
    import trimesh

    if study.n_slices < 2:
        return None
    height, width = mask.shape[1:]
    scale = min(1.0, FINEST / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    to_world = _world(study) @ np.diag([1.0, height / size[1], width / size[0], 1.0])
    gray = np.stack([cv2.resize(study.gray(i), size, interpolation=cv2.INTER_AREA) for i in range(study.n_slices)])
    scene = trimesh.Scene()
    for kind in TUMORS:
        inside = (mask == kind.index).astype(np.float32)
        share = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in inside])
        if kind.color is not None and share.max() > 0.5:
            _add(scene, kind.title, share, 0.5, to_world, (*kind.color, 255), 0.5)
    _add(scene, "Head", gray, 0.35 * float(np.percentile(gray, 97)), to_world, HEAD_COLOR, 1.2)
    if not scene.geometry:
        return None
    scene.apply_translation(-scene.bounds.mean(0))
    data: bytes = scene.export(file_type="glb")
    return data


def _world(study: Study) -> np.ndarray:
    """Index ``(slice, row, column, 1)`` to glTF's axes (x right, y up, z toward the viewer), in millimeters."""
    if study.affine is not None:
        to_view = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)  # LPS: left, back, head
        return to_view @ study.affine
    across, row, column = study.spacing or (1.0, 1.0, 1.0)
    return np.array([[0, 0, column, 0], [across or row, 0, 0, 0], [0, -row, 0, 0], [0, 0, 0, 1]], float)


def _add(
    scene: object, name: str, values: np.ndarray, level: float, to_world: np.ndarray, color: tuple[int, ...], blur: float
) -> None:
    """Add the surface where ``values`` ``(S, h, w)`` cross ``level``; nothing where they do not."""
    import trimesh
    from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]  # named at run time
    from skimage.measure import marching_cubes

    smooth = gaussian_filter(np.pad(values, 1), (blur / 2, blur, blur))
    if not smooth.min() < level < smooth.max():
        return
    points, faces, _, _ = marching_cubes(smooth, level)
    placed = np.c_[points - 1, np.ones(len(points))] @ to_world.T
    mesh = trimesh.Trimesh(placed[:, :3], faces, process=False)
    if mesh.volume < 0:  # the axes' change may have turned the surface inside out
        mesh.invert()
    mesh.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(
            name=name, baseColorFactor=list(color), metallicFactor=0.0, roughnessFactor=0.9, doubleSided=True,
            alphaMode="OPAQUE" if color[3] == 255 else "BLEND",
        )
    )  # fmt: skip
    scene.add_geometry(mesh, geom_name=name, node_name=name)  # type: ignore[attr-defined]
