"""Our numpy boxes against MONAI's own detector, and the Model Zoo's weights through our format."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medai.errors import ModelError
from medai.inference import detect
from medai.inference.find_boxes import BoxFinder
from medai.networks.checkpoint import load_checkpoint, read_config, save_checkpoint
from medai.networks.engine import PARITY_LOGITS, load_engine
from medai.networks.factory import build_network, network_tensors, restore_network
from medai.networks.zoo_weights import ZOO_CONFIG, convert_zoo_weights
from medai.postprocessing.detection_boxes import AnchorConfig, decode_heads, suppressed

CPU_CONFIG = {
    "network": "detection_network",
    "network_options": {"profile": "cpu", "channels_in": 1, "anchors": 1},
    "patch_shape": [48, 48, 48],
    "spacing_ras_mm": [1.0, 1.0, 1.0],
    "window_hu": [-1000.0, 400.0],
    "image_range": [-1.0, 1.0],
    "anchors": AnchorConfig().to_json(),
}


def lively(config, seed=5):
    """A network whose answers differ from place to place, as a trained one's do."""
    torch.manual_seed(seed)
    network = build_network(config)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.2)
        heads = network.retinanet
        answers = (heads.classification_head, heads.regression_head)
        final = [getattr(h, "answer", None) or getattr(h, "cls_logits", None) or h.bbox_reg for h in answers]
        for layer, spread in zip(final, (0.8, 0.1), strict=True):
            layer.weight.normal_(0, spread / layer.weight[0].numel() ** 0.5)
        final[0].bias.fill_(-1.0)
    return network.eval()


def monai_boxes(network, config, image, *, least_score, most_overlap):
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=config["anchors"]["scales"], base_anchor_shapes=config["anchors"]["shapes"]
    )
    detector = RetinaNetDetector(network.retinanet, anchors).eval()
    detector.set_target_keys(box_key="box", label_key="label")
    detector.set_box_selector_parameters(
        score_thresh=least_score, topk_candidates_per_level=1000, nms_thresh=most_overlap, detections_per_img=100
    )
    with torch.inference_mode():
        (found,) = detector(torch.from_numpy(image))
    return found["box"].numpy(), found["label_scores"].numpy()


@pytest.mark.parametrize(
    ("config", "shape"), [(CPU_CONFIG, (48, 40, 56)), (ZOO_CONFIG, (64, 48, 32))], ids=["narrow", "zoo"]
)
def test_the_boxes_are_those_of_monais_detector(config, shape, rng):
    network = lively(config)
    image = rng.uniform(*config["image_range"], (1, 1, *shape)).astype(np.float32)
    boxes, scores = monai_boxes(network, config, image, least_score=0.3, most_overlap=0.22)
    with torch.inference_mode():
        answer = network(torch.from_numpy(image)).numpy()[0]
    ours = decode_heads(answer, shape, AnchorConfig.of_json(config["anchors"]), least_logit=float(np.log(0.3 / 0.7)))
    # MONAI clips boxes to the image before it compares them; ours may reach beyond a window's rim.
    ours.boxes[:, :3] = np.clip(ours.boxes[:, :3], 0, shape)
    ours.boxes[:, 3:] = np.clip(ours.boxes[:, 3:], 0, shape)
    ours = suppressed(ours, most_overlap=0.22, most=100)
    assert len(boxes) > 5
    np.testing.assert_allclose(1 / (1 + np.exp(-ours.logits)), scores, atol=1e-3)
    np.testing.assert_allclose(ours.boxes, boxes, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 48, 48, 48), (2, 1, 24, 40, 16)])
def test_openvino_says_what_torch_says(tmp_path, rng, shape):
    network = lively(CPU_CONFIG)
    path = tmp_path / "finder.safetensors"
    save_checkpoint(path, network_tensors(network), CPU_CONFIG)
    engine = load_engine(path, device="cpu", cache_folder=tmp_path / "engines", threads=1)
    assert engine.description.startswith("OpenVINO")
    image = rng.uniform(-1, 1, shape).astype(np.float32)
    with torch.inference_mode():
        expected = restore_network(load_checkpoint(path))(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(engine.run(image), expected, atol=PARITY_LOGITS)


def test_weights_in_the_zoos_format_become_a_detector(tmp_path, rng, monkeypatch):
    from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
    from monai.networks.nets.resnet import resnet50

    # As the bundle's configs/inference.json builds it.
    backbone = resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1], conv1_t_size=[7, 7, 7])
    extractor = resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None)
    theirs = RetinaNet(3, 1, 3, extractor, size_divisible=[16, 16, 8]).eval()
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    converted = convert_zoo_weights(tmp_path / "model.pt", tmp_path / "weights.safetensors")
    ours = restore_network(load_checkpoint(converted, part="finder"))
    image = torch.from_numpy(rng.uniform(0, 1, (1, 1, 32, 32, 16)).astype(np.float32))
    with torch.inference_mode():
        logits = torch.cat([level.flatten(2) for level in theirs(image)["classification"]], dim=2)
        torch.testing.assert_close(ours(image)[:, :3], logits)
    # Its conversion to OpenVINO takes a minute: the file's config is what is looked at here.
    monkeypatch.setattr(
        detect, "load_engine", lambda path, part, **rest: SimpleNamespace(config=read_config(path, part=part))
    )
    engines = []
    detect.load_detector(tmp_path / "model.pt", device="cpu", wrap=lambda engine: engines.append(engine) or engine)
    assert BoxFinder(engines[0]).spacing_ras_mm == (0.703125, 0.703125, 1.25)


def test_other_files_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="is not of 'lung_nodule_ct_detection'"):
        detect.load_detector(tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        detect.load_detector(tmp_path / "broken.pt")
