"""Models of transformers as backbones: a tiny random one of every family, built here and loaded from its folder.

Each is saved with the file of its own preprocessor, by transformers or as its repository on the Hub has it, and loaded
by the call that takes an id as well. Nothing is downloaded. The video tower of PE-AV is a model of timm, which is not
installed: a stand-in of the same shape takes its place, inside the real classes.
"""

import json
import logging
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.timm_wrapper import modeling_timm_wrapper as timm_wrapper

from modeling_dualspace.backbones import Steps
from modeling_dualspace.transformers_backbones import transformers_backbone
from modeling_dualspace.transformers_models import Place
from modeling_dualspace.transformers_processors import frame_processor

# float32 keeps 24 bits (6e-8), and these networks sum a few hundred products around 1 in each of their few layers:
# another order of summing leaves 1e-6 in most, and 7e-6 behind the many convolutions of PE-AV's codec. 2e-5 is above
# it, and far below any difference that would mean something: other inputs move a vector by 1e-3 and more.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}

TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VIT |= {"image_size": 32, "patch_size": 16}
SQUARE = {"size": {"height": 32, "width": 32}}
MIDDLE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def clap_config(*, fused: bool) -> hf.ClapConfig:
    audio = {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1], "window_size": 4}
    audio |= {"num_attention_heads": [2, 2], "hidden_size": 16, "num_hidden_layers": 2, "patch_stride": [4, 4]}
    audio |= {"projection_dim": 6, "enable_fusion": fused}
    return hf.ClapConfig(text_config={**TEXT, "projection_dim": 6}, audio_config=audio, projection_dim=6)


def clap_extractor(truncation: str) -> hf.ClapFeatureExtractor:
    sizes = {"feature_size": 16, "sampling_rate": 8000, "hop_length": 1250, "fft_window_size": 256}
    return hf.ClapFeatureExtractor(**sizes, frequency_max=4000, truncation=truncation)


def wav2vec2_config(kind: type, **more):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "vocab_size": 20}
    return kind(**sizes, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **more)


def whisper_config() -> hf.WhisperConfig:
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_source_positions": 100}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return hf.WhisperConfig(**sizes, **tokens, vocab_size=20, num_mel_bins=80)


PE = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
PE_CODEC = {"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 4, 4, 5], "hidden_size": 64}
PE_AUDIO = {**PE, "dac_config": {**PE_CODEC, "codebook_dim": 4, "sampling_rate": 4000}}
PE_VIDEO = {**PE, "vision_config": {"num_classes": 6}}
PE_TEXT = {**TEXT, "model_type": "modernbert", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PE_TEXT |= {"cls_token_id": 1, "sep_token_id": 2}
PE_SOUND = {"feature_extractor_type": "PeAudioFeatureExtractor", "feature_size": 1, "sampling_rate": 4000}
PE_SOUND |= {"hop_length": 160, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True}
# As facebook/pe-av-base-16-frame has it: what the class itself sets is not in there.
PE_FRAMES = {"video_processor_type": "PeVideoVideoProcessor", "do_sample_frames": True, "num_frames": 4, **SQUARE}
PE_FRAMES |= {"do_normalize": True, "do_resize": True, "do_rescale": True, "do_convert_rgb": True}
PE_FRAMES |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
DINO_FRAMES = {"image_processor_type": "DINOv3ViTImageProcessorFast", "do_center_crop": None, "do_resize": True}
DINO_FRAMES |= {"do_rescale": True, "do_normalize": True, "resample": 2, "rescale_factor": 1 / 255, **SQUARE}
DINO_FRAMES |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
JEPA_FRAMES = {"video_processor_type": "VJEPA2VideoProcessor", "do_resize": True, "do_rescale": True}
JEPA_FRAMES |= {"do_normalize": True, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 2}
JEPA_FRAMES |= {"size": {"shortest_edge": 36}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def jepa_config() -> hf.VJEPA2Config:
    sizes = {"hidden_size": 12, "crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "num_hidden_layers": 1}
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return hf.VJEPA2Config(**sizes, num_attention_heads=2, mlp_ratio=1, **predictor)


def siglip2_config() -> hf.Siglip2Config:
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return hf.Siglip2Config(text_config=TEXT, vision_config={**vision, "num_patches": 16, "patch_size": 4})


def xclip_config() -> hf.XCLIPConfig:
    over_time = {"mit_hidden_size": 16, "mit_intermediate_size": 8, "mit_num_hidden_layers": 1}
    vision = {**VIT, **over_time, "mit_num_attention_heads": 2, "num_frames": 4}
    return hf.XCLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=16, prompt_num_attention_heads=2)


def clip_config() -> hf.CLIPConfig:
    vision = {**VIT, "projection_dim": 6}
    return hf.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=6)


def mae_config() -> hf.ViTMAEConfig:
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return hf.ViTMAEConfig(**VIT, **decoder, decoder_intermediate_size=8)


def pe_av_config() -> hf.PeAudioVideoConfig:
    both = {**PE, "audio_config": PE_AUDIO, "video_config": PE_VIDEO}
    return hf.PeAudioVideoConfig(text_config=PE_TEXT, audio_video_config=both)


def ast_config() -> hf.ASTConfig:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return hf.ASTConfig(**sizes, max_length=64, num_mel_bins=16)


# What people have of each family, and the file that says how its inputs are prepared.
FOLDERS = {
    "clap": lambda: (hf.ClapModel(clap_config(fused=False)), clap_extractor("rand_trunc")),
    "clap_fused": lambda: (hf.ClapModel(clap_config(fused=True)), clap_extractor("fusion")),
    "clap_audio": lambda: (hf.ClapAudioModel(clap_config(fused=False).audio_config), clap_extractor("rand_trunc")),
    "clap_projected": lambda: (
        hf.ClapAudioModelWithProjection(clap_config(fused=False).audio_config),
        clap_extractor("rand_trunc"),
    ),
    "ast": lambda: (
        hf.ASTForAudioClassification(ast_config()),
        hf.ASTFeatureExtractor(num_mel_bins=16, max_length=64),
    ),
    "whisper": lambda: (
        hf.WhisperForConditionalGeneration(whisper_config()),
        hf.WhisperFeatureExtractor(chunk_length=2),
    ),
    "wav2vec2": lambda: (hf.Wav2Vec2ForCTC(wav2vec2_config(hf.Wav2Vec2Config)), hf.Wav2Vec2FeatureExtractor()),
    "hubert": lambda: (
        hf.HubertModel(wav2vec2_config(hf.HubertConfig, feat_extract_norm="layer")),
        hf.Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "pe_audio": lambda: (
        hf.PeAudioModel(hf.PeAudioConfig(text_config=PE_TEXT, audio_config=PE_AUDIO)),
        {"preprocessor_config.json": PE_SOUND},
    ),
    "pe_frame_level": lambda: (
        hf.PeAudioFrameLevelModel(hf.PeAudioConfig(text_config=PE_TEXT, audio_config=PE_AUDIO)),
        {"preprocessor_config.json": PE_SOUND},
    ),
    "pe_video": lambda: (
        hf.PeVideoModel(hf.PeVideoConfig(text_config=PE_TEXT, video_config=PE_VIDEO)),
        {"video_preprocessor_config.json": PE_FRAMES},
    ),
    "pe_av": lambda: (
        hf.PeAudioVideoModel(pe_av_config()),
        {"preprocessor_config.json": PE_SOUND, "video_preprocessor_config.json": PE_FRAMES},
    ),
    "clip": lambda: (hf.CLIPModel(clip_config()), hf.CLIPImageProcessorPil(**MIDDLE)),
    "clip_vision": lambda: (hf.CLIPVisionModel(clip_config().vision_config), hf.CLIPImageProcessorPil(**MIDDLE)),
    "clip_projected": lambda: (
        hf.CLIPVisionModelWithProjection(clip_config().vision_config),
        hf.CLIPImageProcessorPil(**MIDDLE),
    ),
    "siglip": lambda: (
        hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VIT)),
        hf.SiglipImageProcessorPil(**SQUARE),
    ),
    "siglip2": lambda: (
        hf.Siglip2Model(siglip2_config()),
        hf.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16),
    ),
    "vit": lambda: (hf.ViTModel(hf.ViTConfig(**VIT)), hf.ViTImageProcessorPil(**SQUARE)),
    "vit_classifier": lambda: (
        hf.ViTForImageClassification(hf.ViTConfig(**VIT)),
        hf.ViTImageProcessorPil(**SQUARE),
    ),
    "vit_mae": lambda: (hf.ViTMAEForPreTraining(mae_config()), hf.ViTImageProcessorPil(**SQUARE)),
    "dinov3": lambda: (hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT)), {"preprocessor_config.json": DINO_FRAMES}),
    "resnet": lambda: (
        hf.ResNetForImageClassification(hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])),
        hf.ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    ),
    "videomae": lambda: (
        hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**VIT, num_frames=4)),
        hf.VideoMAEImageProcessorPil(**MIDDLE),
    ),
    "vjepa2": lambda: (hf.VJEPA2Model(jepa_config()), {"video_preprocessor_config.json": JEPA_FRAMES}),
    "xclip": lambda: (hf.XCLIPModel(xclip_config()), hf.VideoMAEImageProcessorPil(**MIDDLE)),
    "bert": lambda: (hf.BertModel(hf.BertConfig(**TEXT)), {}),
}
HEARD = {
    "clap", "clap_fused", "clap_audio", "clap_projected", "ast", "whisper", "wav2vec2", "hubert", "pe_audio",
    "pe_frame_level",
}  # fmt: skip
# Every tower, by modality and folder: PE-AV has two.
TOWERS = [("audio" if name in HEARD else "visual", name) for name in FOLDERS if name not in ("bert", "pe_av")]
TOWERS += [("audio", "pe_av"), ("visual", "pe_av")]
names = [f"{modality}-{name}" for modality, name in TOWERS]


class StandIn(torch.nn.Module):
    """A classifier of images of the least kind, where timm's would be."""

    def __init__(self, classes: int):
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, pixel_values, **_):
        return self.head(pixel_values.mean((2, 3)))


REQUIRES_BACKENDS = timm_wrapper.requires_backends


@pytest.fixture(scope="module", autouse=True)
def timm_stand_in():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm_wrapper, "requires_backends", lambda *_: None)
        patch.setattr(
            timm_wrapper,
            "_create_timm_model_with_error_handling",
            lambda config, num_classes, **_: StandIn(num_classes),
        )
        yield


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, timm_stand_in):
    """`folder_of("clap")`: where the tiny model of a family lies."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            torch.manual_seed(len(name))
            model, files = FOLDERS[name]()
            for parameter in model.parameters():
                if parameter.ndim > 1:  # the usual .02 would leave hardly anything of the input in the vectors
                    torch.nn.init.normal_(parameter, std=0.3)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            for file, text in files.items() if isinstance(files, dict) else ():
                (made[name] / file).write_text(json.dumps(text))
            if not isinstance(files, dict):
                files.save_pretrained(made[name])
        return made[name]

    return of


@pytest.fixture(scope="module")
def backbone_of(folder_of):
    """`backbone_of("audio", "clap")`: the backbone out of that folder, on the CPU."""
    made = {}

    def of(modality: str, name: str):
        if (modality, name) not in made:
            made[modality, name] = transformers_backbone(modality, folder_of(name), device="cpu")
        return made[modality, name]

    return of


@pytest.fixture
def copy_of(folder_of, tmp_path):
    """`copy_of("clap")`: a copy of that folder, to be spoiled."""

    def of(name: str, to: str = "copy") -> Path:
        return Path(shutil.copytree(folder_of(name), tmp_path / to))

    return of


def pieces_of(backbone, *, seed: int = 0, share: float = 1.0) -> list[np.ndarray]:
    """One unit: a stretch of noise of so great a share of it, or frames of noise."""
    random = np.random.default_rng(seed)
    if backbone.modality == "audio":
        return [random.uniform(-0.5, 0.5, int(share * backbone.steps.length)).astype(np.float32)]
    return [random.integers(0, 256, (40, 56, 3), np.uint8) for _ in range(backbone.steps.length)]


def embedded(backbone, *units) -> np.ndarray:
    return backbone.embed([[backbone.prepare(piece) for piece in unit] for unit in units])


# The same by hand: each family as its page in the documentation of transformers shows it.


def heard(folder, piece, **more):
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    return extractor(piece, sampling_rate=extractor.sampling_rate, return_tensors="pt", **more)


def load(kind, folder, **more):
    return kind.from_pretrained(folder, **more).eval()


def seen(processor, folder, pieces):
    return processor.from_pretrained(folder)(pieces[0], return_tensors="pt")


def by_pillow(piece, *, edge: tuple[int, int], mean, std, crop: int | None = None) -> torch.Tensor:
    """Resized to (width, height), bilinear; the middle; 0..1; normalised."""
    picture = np.asarray(Image.fromarray(piece).resize(edge, Image.Resampling.BILINEAR)).astype(np.float64)
    if crop:
        top, left = (picture.shape[0] - crop) // 2, (picture.shape[1] - crop) // 2
        picture = picture[top : top + crop, left : left + crop]
    picture = (picture / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(picture.astype(np.float32).transpose(2, 0, 1))


def clap_by_hand(folder, pieces):
    return load(hf.ClapModel, folder).get_audio_features(**heard(folder, pieces[0])).pooler_output


def clap_fused_by_hand(folder, pieces):
    inputs = heard(folder, pieces[0])
    inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)  # the extractor draws by lot which one is called longer
    return load(hf.ClapModel, folder).get_audio_features(**inputs).pooler_output


def clap_audio_by_hand(folder, pieces):
    return load(hf.ClapAudioModel, folder)(**heard(folder, pieces[0])).pooler_output


def clap_projected_by_hand(folder, pieces):
    return load(hf.ClapAudioModelWithProjection, folder)(**heard(folder, pieces[0])).audio_embeds


def ast_by_hand(folder, pieces):
    return load(hf.ASTModel, folder)(**heard(folder, pieces[0])).pooler_output


def whisper_by_hand(folder, pieces):
    hidden = load(hf.WhisperModel, folder).encoder(heard(folder, pieces[0]).input_features).last_hidden_state
    frames = -(-len(pieces[0]) // 160)  # one each 160 samples, then one token of two frames
    return hidden[:, : -(-frames // 2)].mean(1)


def wav2vec2_by_hand(folder, pieces):
    return load(hf.Wav2Vec2Model, folder)(**heard(folder, pieces[0])).last_hidden_state.mean(1)


def hubert_by_hand(folder, pieces):
    # In a batch with something longer, padded and masked, as such a model wants it.
    model, longer = load(hf.HubertModel, folder), np.zeros(len(pieces[0]) + 5000, np.float32)
    hidden = model(**heard(folder, [pieces[0], longer], padding=True)).last_hidden_state[0]
    return hidden[: model._get_feat_extract_output_lengths(len(pieces[0]))].mean(0, keepdim=True)


def pe_audio_by_hand(folder, pieces):
    return load(hf.PeAudioModel, folder).get_audio_embeds(**heard(folder, pieces[0]))


def pe_frame_level_by_hand(folder, pieces):
    return load(hf.PeAudioFrameLevelModel, folder).get_audio_embeds(**heard(folder, pieces[0])).mean(1)


def pe_av_audio_by_hand(folder, pieces):
    return load(hf.PeAudioVideoModel, folder).get_audio_embeds(**heard(folder, pieces[0]))


def pe_frames(pieces):
    return torch.stack([by_pillow(each, edge=(32, 32), mean=[0.5] * 3, std=[0.5] * 3) for each in pieces])[None]


def pe_video_by_hand(folder, pieces):
    model = load(hf.PeVideoModel, folder)
    return model.video_head(model.video_encoder(pe_frames(pieces)).pooler_output)


def pe_av_video_by_hand(folder, pieces):
    model = load(hf.PeAudioVideoModel, folder).video_model
    return model.video_head(model.video_encoder(pe_frames(pieces)).pooler_output)


def clip_by_hand(folder, pieces):
    inputs = seen(hf.CLIPImageProcessorPil, folder, pieces)
    return load(hf.CLIPModel, folder).get_image_features(**inputs).pooler_output


def clip_vision_by_hand(folder, pieces):
    return load(hf.CLIPVisionModel, folder)(**seen(hf.CLIPImageProcessorPil, folder, pieces)).pooler_output


def clip_projected_by_hand(folder, pieces):
    inputs = seen(hf.CLIPImageProcessorPil, folder, pieces)
    return load(hf.CLIPVisionModelWithProjection, folder)(**inputs).image_embeds


def siglip_by_hand(folder, pieces):
    inputs = seen(hf.SiglipImageProcessorPil, folder, pieces)
    return load(hf.SiglipModel, folder).get_image_features(**inputs).pooler_output


def siglip2_by_hand(folder, pieces):
    inputs = seen(hf.Siglip2ImageProcessorPil, folder, pieces)
    return load(hf.Siglip2Model, folder).get_image_features(**inputs).pooler_output


def vit_by_hand(folder, pieces):
    return load(hf.ViTModel, folder)(**seen(hf.ViTImageProcessorPil, folder, pieces)).pooler_output


def vit_classifier_by_hand(folder, pieces):
    inputs = seen(hf.ViTImageProcessorPil, folder, pieces)
    return load(hf.ViTForImageClassification, folder).vit(**inputs).last_hidden_state.mean(1)


def vit_mae_by_hand(folder, pieces):
    inputs = seen(hf.ViTImageProcessorPil, folder, pieces)
    return load(hf.ViTMAEModel, folder, mask_ratio=0.0)(**inputs).last_hidden_state.mean(1)


def dinov3_by_hand(folder, pieces):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    picture = by_pillow(pieces[0], edge=(32, 32), mean=settings["image_mean"], std=settings["image_std"])
    return load(hf.DINOv3ViTModel, folder)(picture[None]).pooler_output


def resnet_by_hand(folder, pieces):
    inputs = seen(hf.ConvNextImageProcessorPil, folder, pieces)
    return load(hf.ResNetModel, folder)(**inputs).pooler_output[:, :, 0, 0]


def videomae_by_hand(folder, pieces):
    inputs = hf.VideoMAEImageProcessorPil.from_pretrained(folder)(pieces, return_tensors="pt")
    return load(hf.VideoMAEModel, folder)(**inputs).last_hidden_state.mean(1)


def vjepa2_by_hand(folder, pieces):
    # 40 x 56 pixels to a shorter edge of 36, the longer one cut to whole pixels, and 32 of the middle.
    plain = {"edge": (50, 36), "mean": [0.5] * 3, "std": [0.5] * 3, "crop": 32}
    frames = torch.stack([by_pillow(each, **plain) for each in pieces])[None]
    return load(hf.VJEPA2Model, folder).get_vision_features(frames).mean(1)


def xclip_by_hand(folder, pieces):
    inputs = hf.VideoMAEImageProcessorPil.from_pretrained(folder)(pieces, return_tensors="pt")
    return load(hf.XCLIPModel, folder).get_video_features(**inputs).pooler_output


def by_hand(modality: str, name: str, folder, pieces) -> np.ndarray:
    part = {("audio", "pe_av"): "pe_av_audio", ("visual", "pe_av"): "pe_av_video"}.get((modality, name), name)
    with torch.inference_mode():
        return globals()[f"{part}_by_hand"](folder, pieces).numpy()


@pytest.mark.parametrize(("modality", "name"), TOWERS, ids=names)
def test_a_vector_is_what_the_documentation_of_the_model_gives(modality, name, folder_of, backbone_of):
    backbone = backbone_of(modality, name)
    for seed, share in ((0, 1.0), (1, 0.31)):
        pieces = pieces_of(backbone, seed=seed, share=share)
        vector = embedded(backbone, pieces)
        assert vector.dtype == np.float32 and vector.shape == (1, backbone.width)
        np.testing.assert_allclose(vector, by_hand(modality, name, folder_of(name), pieces), **CLOSE)
        assert np.abs(vector - embedded(backbone, pieces_of(backbone, seed=seed + 5))).max() > 1e-3


@pytest.mark.parametrize(("modality", "name"), TOWERS, ids=names)
def test_neighbours_in_a_batch_do_not_change_a_vector(modality, name, backbone_of):
    backbone = backbone_of(modality, name)
    units = [pieces_of(backbone, seed=seed, share=share) for seed, share in enumerate((1, 0.4, 1, 0.07, 0.4))]
    together = embedded(backbone, *units)
    np.testing.assert_allclose(together, np.concatenate([embedded(backbone, unit) for unit in units]), **CLOSE)
    np.testing.assert_allclose(together[::-1], embedded(backbone, *units[::-1]), **CLOSE)
    assert backbone.embed([]).shape == (0, backbone.width)


@pytest.mark.parametrize(("modality", "name"), TOWERS, ids=names)
def test_what_is_tiny_or_stretched_has_a_vector_too(modality, name, backbone_of):
    backbone = backbone_of(modality, name)
    if modality == "audio":
        odd = [[np.full(count, 0.1, np.float32)] for count in (1, 2, 399)]
    else:
        random = np.random.default_rng(0)
        shapes = ((1, 1), (4000, 3), (3, 4000), (3, 3))
        odd = [[random.integers(0, 256, (*shape, 3), np.uint8)] * backbone.steps.length for shape in shapes]
    vectors = embedded(backbone, *odd)
    assert vectors.shape == (len(odd), backbone.width) and np.isfinite(vectors).all()


@pytest.mark.parametrize(("modality", "name"), TOWERS, ids=names)
def test_threads_prepare_the_same(modality, name, backbone_of):
    backbone = backbone_of(modality, name)
    pieces = [pieces_of(backbone, seed=seed)[0] for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for alone, made in zip(map(backbone.prepare, pieces), threads.map(backbone.prepare, pieces), strict=True):
            assert alone.keys() == made.keys()
            for key in alone:
                np.testing.assert_array_equal(alone[key], made[key])


@pytest.mark.parametrize(("modality", "name"), TOWERS, ids=names)
def test_copies_have_one_spec_wherever_they_lie(modality, name, folder_of, backbone_of, copy_of):
    backbone, copy = backbone_of(modality, name), transformers_backbone(modality, copy_of(name), device="cpu")
    assert copy.spec == backbone.spec and copy.weights == backbone.weights and len(copy.weights) == 16
    assert copy.constants == backbone.constants and copy.revision is None
    written = json.dumps(copy.record())
    assert json.loads(written) == copy.record() and len(written) < 2000
    told = json.dumps(copy.constants)
    assert "/" not in told and hf.__version__ not in told and "mel_filters" not in told
    assert copy.source == str(copy.record()["source"]) != str(folder_of(name))
    model_type = json.loads((folder_of(name) / "config.json").read_text())["model_type"]
    assert copy.name == model_type.replace("_", "-") == copy.spec.partition("@")[0]


def spoil_weight(folder, name):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(folder, file, **changes):
    text = json.loads((folder / file).read_text())
    for path, value in changes.items():
        part, _, key = path.rpartition("__")
        (text[part] if part else text)[key] = value
    (folder / file).write_text(json.dumps(text))


def test_another_weight_constant_or_configuration_is_another_spec(backbone_of, copy_of):
    spec = backbone_of("visual", "clip").spec

    def changed(to, change):
        folder = copy_of("clip", to)
        change(folder)
        return transformers_backbone("visual", folder, device="cpu").spec

    assert changed("weight", lambda folder: spoil_weight(folder, "visual_projection.weight")) != spec
    mean = {"image_mean": [0.5, 0.5, 0.5]}
    assert changed("constant", lambda folder: rewrite(folder, "preprocessor_config.json", **mean)) != spec
    # Heads do not show in the weights.
    heads = {"vision_config__num_attention_heads": 4}
    assert changed("heads", lambda folder: rewrite(folder, "config.json", **heads)) != spec
    # What the picture never meets, and what another version of transformers writes, is not part of it.
    assert changed("text", lambda folder: spoil_weight(folder, "text_projection.weight")) == spec
    version = {"transformers_version": "5.99.0", "_name_or_path": "/home/somebody"}
    assert changed("version", lambda folder: rewrite(folder, "config.json", **version)) == spec


def test_a_rate_has_one_spelling(folder_of, backbone_of):
    same = transformers_backbone("visual", folder_of("clip"), device="cpu", fps=1.0)
    assert same.spec == backbone_of("visual", "clip").spec
    other = transformers_backbone("visual", folder_of("clip"), device="cpu", fps=2.5)
    assert other.spec != same.spec and other.steps == Steps(rate=2.5, length=1, hop=1)


def test_units_are_as_long_as_the_model_takes(backbone_of):
    lengths = {
        "clap": (8000, 80000),  # its max_length_s of 10
        "ast": (16000, 10240),  # its 64 frames of 10 ms
        "whisper": (16000, 32000),  # its chunk_length of 2
        "wav2vec2": (16000, 160000),  # 10 s, for it takes any length
        "pe_audio": (4000, 40000),
    }
    for name, (rate, length) in lengths.items():
        assert backbone_of("audio", name).steps == Steps(rate=rate, length=length, hop=length)
    pictures = {"clip": (1, 1), "dinov3": (1, 1), "videomae": (8, 4), "vjepa2": (4, 4), "pe_video": (0.4, 4)}
    for name, (rate, length) in pictures.items():
        assert backbone_of("visual", name).steps == Steps(rate=rate, length=length, hop=length)


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # AST's have always been so
def test_the_real_sizes_make_the_units_people_know():
    extractors = {"AST": hf.ASTFeatureExtractor(), "CLAP": hf.ClapFeatureExtractor(), "W": hf.WhisperFeatureExtractor()}
    assert extractors["AST"].max_length / 100 == 10.24
    assert extractors["CLAP"].nb_max_samples / extractors["CLAP"].sampling_rate == 10
    assert extractors["W"].n_samples / extractors["W"].sampling_rate == 30
    assert hf.VideoMAEConfig().num_frames == 16


def test_steps_may_be_given(folder_of):
    steps = Steps(rate=16000, length=4000, hop=2000, least=0.25)
    backbone = transformers_backbone("audio", folder_of("wav2vec2"), device="cpu", steps=steps)
    assert backbone.steps == steps and backbone.constants != {}
    assert transformers_backbone("visual", folder_of("videomae"), device="cpu", fps=25).steps.rate == 25
    again = Steps(**backbone.record()["constants"]["steps"])
    assert transformers_backbone("audio", folder_of("wav2vec2"), device="cpu", steps=again).spec == backbone.spec


def test_whisper_is_pooled_over_what_is_no_padding(folder_of, backbone_of):
    backbone = backbone_of("audio", "whisper")
    pieces = pieces_of(backbone, share=0.25)
    with torch.inference_mode():
        hidden = load(hf.WhisperModel, folder_of("whisper")).encoder(
            heard(folder_of("whisper"), pieces[0]).input_features
        )
    tokens = hidden.last_hidden_state[0].numpy()
    assert len(tokens) == 100
    np.testing.assert_allclose(embedded(backbone, pieces)[0], tokens[:25].mean(0), **CLOSE)
    assert np.abs(embedded(backbone, pieces)[0] - tokens.mean(0)).max() > 1e-2


@pytest.mark.parametrize("name", ["clap", "clap_fused"])
def test_nothing_of_clap_is_random(name, backbone_of):
    backbone = backbone_of("audio", name)
    (piece,) = pieces_of(backbone)
    made = []
    for seed in range(3):
        np.random.seed(seed)
        made.append(backbone.prepare(piece))
        assert not made[-1]["is_longer"].any()
    for key in made[0]:
        np.testing.assert_array_equal(made[0][key], made[1][key])
        np.testing.assert_array_equal(made[0][key], made[2][key])
    with pytest.raises(ValueError, match="A unit of sound is 1 to 80000 samples in one row"):
        backbone.prepare(np.zeros(80001, np.float32))


def test_what_hides_patches_at_random_hides_none(backbone_of):
    backbone = backbone_of("visual", "vit_mae")
    pieces = pieces_of(backbone)
    np.testing.assert_allclose(embedded(backbone, pieces), embedded(backbone, pieces), **CLOSE)


def test_text_towers_and_decoders_are_not_kept(folder_of, backbone_of):
    for modality, name in TOWERS:
        kept = list(backbone_of(modality, name).tower.state_dict())
        assert kept and not [key for key in kept if "text" in key or "decoder" in key or "predictor" in key]
    for modality, other in (("audio", "vision"), ("visual", "dac")):  # nor what sees the other modality
        assert not [key for key in backbone_of(modality, "pe_av").tower.state_dict() if other in key]
    # One tower, whether it comes alone or with the others.
    assert backbone_of("audio", "pe_av").constants["pooling"] == backbone_of("audio", "pe_audio").constants["pooling"]


def test_a_pooler_that_nobody_trained_is_not_used(folder_of, backbone_of):
    assert backbone_of("visual", "vit").constants["pooling"] == "forward, pooler_output"
    backbone = backbone_of("visual", "vit_classifier")
    assert backbone.constants["pooling"] == "forward, last_hidden_state"
    torch.manual_seed(99)  # the pooler it was given is another one now
    again = transformers_backbone("visual", folder_of("vit_classifier"), device="cpu")
    assert again.spec == backbone.spec
    pieces = pieces_of(backbone)
    np.testing.assert_allclose(embedded(again, pieces), embedded(backbone, pieces), **CLOSE)


@pytest.mark.parametrize("name", ["whisper", "videomae", "clap"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_close_and_have_a_spec_of_their_own(name, dtype, folder_of, backbone_of):
    modality = "audio" if name in HEARD else "visual"
    exact = backbone_of(modality, name)
    half = transformers_backbone(modality, folder_of(name), device="cpu", dtype=dtype)
    assert next(half.tower.parameters()).dtype == getattr(torch, dtype)
    assert half.spec != exact.spec and half.constants == exact.constants | {"dtype": dtype}
    pieces = pieces_of(exact)
    made, wanted = embedded(half, pieces), embedded(exact, pieces)
    assert made.dtype == np.float32
    # bfloat16 keeps 8 bits: 2^-8 = .4 % in every step, of which there are about ten in a row.
    assert np.linalg.norm(made - wanted) < 0.05 * np.linalg.norm(wanted)


def test_a_cpu_computes_in_float32_what_is_stored_in_halves(copy_of, folder_of):
    folder = copy_of("whisper")
    load(hf.WhisperForConditionalGeneration, folder_of("whisper")).half().save_pretrained(folder)
    backbone = transformers_backbone("audio", folder, device="cpu")
    assert next(backbone.tower.parameters()).dtype == torch.float32
    as_stored = transformers_backbone("audio", folder, device="cpu", dtype="float16")
    assert backbone.weights == as_stored.weights  # the hash is of what is stored
    assert transformers_backbone("audio", folder_of("whisper"), device="cpu").spec != backbone.spec


def test_nothing_is_trained_and_nothing_printed(folder_of, capfd):
    for modality, name in (("visual", "vit_classifier"), ("audio", "wav2vec2"), ("audio", "clap")):
        backbone = transformers_backbone(modality, folder_of(name), device="cpu")
        assert not backbone.tower.training
        assert not any(parameter.requires_grad for parameter in backbone.tower.parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("dinov3", "DINOv3ViTImageProcessor"),
        ("vjepa2", "VJEPA2VideoProcessor"),
        ("pe_video", "PeVideoVideoProcessor"),
        ("pe_av", "PeVideoVideoProcessor"),
    ],
)
def test_pillow_stands_in_for_torchvision_and_says_so(name, declared, folder_of, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        backbone = transformers_backbone("visual", folder_of(name), device="cpu")
    (said,) = caplog.messages
    assert f"`{declared}` of `{folder_of(name)}` exists for torchvision alone: Pillow" in said
    assert backbone.constants["processor"]["class"] == "PilBackend"
    assert capfd.readouterr().out == ""


def test_the_class_that_prepares_is_among_the_constants(backbone_of):
    assert backbone_of("visual", "clip").constants["processor"]["class"] == "CLIPImageProcessorPil"
    assert backbone_of("audio", "ast").constants["processor"]["class"] == "ASTFeatureExtractor"


def test_a_long_thin_frame_is_cut_where_its_crop_does_not_reach(backbone_of):
    backbone = backbone_of("visual", "clip")
    frame = np.random.default_rng(0).integers(0, 256, (6, 2000, 3), np.uint8)
    other = frame.copy()
    other[:, :900] = 0
    other[:, 1100:] = 0
    np.testing.assert_array_equal(backbone.prepare(frame)["pixel_values"], backbone.prepare(other)["pixel_values"])


def test_the_sound_of_pe_av_needs_no_timm_and_its_video_says_that_it_does(folder_of, monkeypatch):
    folder = folder_of("pe_av")
    monkeypatch.setattr(timm_wrapper, "requires_backends", REQUIRES_BACKENDS)
    assert transformers_backbone("audio", folder, device="cpu").width == 8
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*timm"):
        transformers_backbone("visual", folder, device="cpu")


# What is refused, each in one sentence.


def refused(words: str, *arguments, **keywords):
    with pytest.raises(ValueError, match=words) as caught:
        transformers_backbone(*arguments, device=keywords.pop("device", "cpu"), **keywords)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_and_no_id_is_refused(tmp_path):
    refused("neither a folder nor an id of the Hub", "audio", str(tmp_path / "nowhere"))
    refused("neither a folder nor an id of the Hub", "audio", "two words")
    refused("neither in the cache nor can the Hub be reached", "audio", "somebody/something")
    refused("at revision 'v1' it is neither in the cache", "audio", "somebody/something", revision="v1")
    refused("holds no config.json", "audio", tmp_path)


def test_a_model_of_the_other_modality_is_refused(folder_of):
    refused(r"\(clap\) takes sound, not pictures: use it for 'audio'", "visual", folder_of("clap"))
    refused(r"\(clip\) takes pictures, not sound: use it for 'visual'", "audio", folder_of("clip"))
    refused(r"\(bert\) takes neither sound nor pictures", "visual", folder_of("bert"))
    refused("A modality is 'audio' or 'visual', not 'text'", "text", folder_of("bert"))


def test_a_folder_that_does_not_say_how_to_prepare_is_refused(copy_of):
    folder = copy_of("clip")
    (folder / "preprocessor_config.json").unlink()
    refused("does not say how to prepare pictures: save its processor", "visual", folder)
    folder = copy_of("clap", "sound")
    (folder / "preprocessor_config.json").unlink()
    refused("does not say how to prepare sound", "audio", folder)
    folder = copy_of("ast", "broken")
    (folder / "preprocessor_config.json").write_text("{")
    refused("The preprocessor_config.json of .* is no JSON", "audio", folder)
    folder = copy_of("vjepa2", "partial")
    partial = {key: value for key, value in JEPA_FRAMES.items() if key != "do_normalize"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(partial))
    refused("says nothing of `do_normalize`", "visual", folder)
    folder = copy_of("dinov3", "unknown")
    rewrite(folder, "preprocessor_config.json", image_processor_type="Sam2ImageProcessor")
    refused("`Sam2ImageProcessor` of .* cannot be used without torchvision", "visual", folder)


def test_weights_that_do_not_cover_the_model_are_refused(copy_of):
    folder = copy_of("clip")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.startswith("vision_model.encoder")]:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(r"do not cover the model: \d+ tensors are missing, as `vision_model\.encoder", "visual", folder)
    folder = copy_of("ast", "shape")
    rewrite(folder, "config.json", intermediate_size=16)
    refused("do not fit its config.json", "audio", folder)
    folder = copy_of("ast", "spoilt")
    (folder / "model.safetensors").write_bytes(b"nothing")
    refused("The weights of .* do not fit|cannot be read", "audio", folder)


def test_a_text_tower_may_be_missing(copy_of, backbone_of):
    folder = copy_of("clip")
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("text")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert transformers_backbone("visual", folder, device="cpu").spec == backbone_of("visual", "clip").spec


def test_pickled_weights_are_refused(copy_of):
    folder = copy_of("vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused("has no model.safetensors, and pickled weights are never read", "visual", folder)


def test_code_out_of_a_repository_is_never_run(copy_of):
    folder = copy_of("vit")
    rewrite(folder, "config.json", model_type="their_own", auto_map={"AutoConfig": "theirs.Config"})
    (folder / "theirs.py").write_text("raise SystemExit('run')")
    refused("code out of a repository is never run", "visual", folder)
    folder = copy_of("vit", "unknown")
    rewrite(folder, "config.json", model_type="their_own")
    refused("names no model which transformers", "visual", folder)
    folder = copy_of("vit", "broken")
    (folder / "config.json").write_text("{")
    refused("The config.json of .* cannot be used", "visual", folder)


def test_a_processor_that_does_not_fit_its_model_is_refused(copy_of):
    folder = copy_of("vit")
    rewrite(folder, "preprocessor_config.json", size={"height": 48, "width": 48})
    refused("makes no vector out of a unit of Steps", "visual", folder)


def test_arguments_that_make_no_sense_are_refused(folder_of):
    refused("is a folder, which has no revision 'v1'", "audio", folder_of("clap"), revision="v1")
    refused("A dtype is 'float32', 'float16', 'bfloat16' or None", "audio", folder_of("clap"), dtype="int8")
    refused("The device 'toaster' cannot be used here", "audio", folder_of("clap"), device="toaster")
    refused("`fps=2` is for pictures", "audio", folder_of("clap"), fps=2)
    refused("`fps` is a positive number", "visual", folder_of("clip"), fps=0)
    refused("both say the rate", "visual", folder_of("clip"), fps=1, steps=Steps(rate=1, length=1, hop=1))
    refused("so a unit is 1 frame long", "visual", folder_of("clip"), steps=Steps(rate=1, length=2, hop=1))
    longer = Steps(rate=8000, length=80001, hop=80000)
    refused("at 8000 samples a second, at most 80000 of them", "audio", folder_of("clap"), steps=longer)
    refused("at 16000 samples", "audio", folder_of("wav2vec2"), steps=Steps(rate=8000, length=8000, hop=8000))
    refused("makes no vector out of a unit", "visual", folder_of("videomae"), steps=Steps(rate=8, length=3, hop=3))


def test_pieces_of_another_shape_are_refused(backbone_of):
    sound, frames = backbone_of("audio", "ast"), backbone_of("visual", "videomae")
    for piece in (np.zeros(0), np.zeros((2, 100)), np.zeros(10241)):
        with pytest.raises(ValueError, match="A unit of sound is 1 to 10240 samples"):
            sound.prepare(piece)
    for piece in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"A frame is \(height, width, 3\) of uint8"):
            frames.prepare(piece)
    with pytest.raises(ValueError, match="A unit is 4 frames: got 1"):
        frames.embed([[frames.prepare(np.zeros((4, 4, 3), np.uint8))]])


def test_an_id_of_the_hub_is_loaded_at_one_commit(online, folder_of, backbone_of):
    api = HfApi(endpoint=online.url, token=online.token)
    api.create_repo("me/tiny")
    first = api.upload_folder(repo_id="me/tiny", folder_path=folder_of("clip")).oid
    backbone = transformers_backbone("visual", "me/tiny", device="cpu")
    assert (backbone.source, backbone.revision) == ("me/tiny", first)
    assert backbone.spec == backbone_of("visual", "clip").spec
    api.upload_folder(repo_id="me/tiny", folder_path=folder_of("siglip"))
    assert transformers_backbone("visual", "me/tiny", device="cpu").name == "siglip"
    record = backbone.record()
    again = transformers_backbone("visual", record["source"], revision=record["revision"], device="cpu")
    assert again.spec == backbone.spec and again.revision == first
    pickled = folder_of("vit")
    api.create_repo("me/pickled")
    api.upload_folder(repo_id="me/pickled", folder_path=pickled, ignore_patterns="*.safetensors")
    api.upload_file(repo_id="me/pickled", path_in_repo="pytorch_model.bin", path_or_fileobj=b"pickled")
    refused("`me/pickled` has no model.safetensors, and pickled weights are never read", "visual", "me/pickled")
    refused("is neither a folder nor a model on the Hub", "visual", "me/other")
    refused("has no revision 'v7' on the Hub", "visual", "me/tiny", revision="v7")


def test_a_repository_of_timm_says_in_its_configuration_how_frames_are_prepared(tmp_path):
    told = {"input_size": [3, 299, 299], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
            "mean": [0.5] * 3, "std": [0.25] * 3}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "inception_v3", "pretrained_cfg": told}))
    place = Place(str(tmp_path), str(tmp_path))
    processor, settings = frame_processor(place)
    frame = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    found = processor([frame], return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    image = Image.fromarray(frame).resize((math.floor(600 * 341 / 400), 341), Image.Resampling.BICUBIC)
    top, left = (341 - 299) // 2, (image.width - 299) // 2
    middle = np.asarray(image)[top : top + 299, left : left + 299].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found, (middle - 0.5) / 0.25, atol=1e-5)
    for wrong in (
        told | {"crop_mode": "squash"},
        told | {"crop_pct": None},
        {"interpolation": "bicubic"},
        "bicubic",
        [],
    ):
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": wrong}))
        with pytest.raises(ValueError, match="does not say how to prepare pictures"):
            frame_processor(place)
