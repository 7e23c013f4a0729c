"""Chinese-CLIP of transformers: the image side of a CLIP and a BERT, as a CLIP of open_clip with such a text side."""

from typing import Any

from open_clip.model import CustomTextCLIP

from selfprompt.models.hf_text import ACTIVATIONS, EncoderConfig
from selfprompt.models.loading import hf_encoders
from selfprompt.models.loading.transformers_format.clip import image_arguments, take_image
from selfprompt.models.loading.transformers_format.config import Config, Side
from selfprompt.models.loading.transformers_format.keys import State, change, take, without

_IGNORED = ("*position_ids", "text_model.pooler.*")
_TEXT = "text_model."


def convert_chinese_clip(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Return the arguments of ``build_chinese_clip`` and the weights of its model.

    Raises:
        ValueError: If an activation is none of a CLIP, or of a text encoder.
    """
    assert config.text is not None
    rest = without(tensors, _IGNORED)
    state = take(rest, {"text.proj.weight": "text_projection.weight", "logit_scale": "logit_scale"})
    state |= take_image(rest, config.image, "vision_model.", "visual.")
    change(state, "logit_scale", lambda x: x.reshape(()))
    names = [name for name in rest if name.startswith(_TEXT)]
    state |= {f"text.transformer.{name.removeprefix(_TEXT)}": rest.pop(name) for name in names}
    text = {
        "context_length": config.text.max_position_embeddings,
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "linear",
    }
    arguments = {**image_arguments(config.image), "text_cfg": text}
    return {"model": arguments, "encoder": _encoder(config.text)}, state | rest


def build_chinese_clip(arguments: dict[str, Any]) -> CustomTextCLIP:
    """Build the model."""
    return hf_encoders.build_clip(**arguments)


def _encoder(side: Side) -> EncoderConfig:
    if side.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"'hidden_act' of the text side must be one of {', '.join(ACTIVATIONS)}, got {side.hidden_act}."
        )
    return EncoderConfig(
        "bert",
        vocabulary=side.vocab_size,
        width=side.hidden_size,
        depth=side.num_hidden_layers,
        heads=side.num_attention_heads,
        inner=side.hidden_size,
        hidden=side.intermediate_size,
        positions=side.max_position_embeddings,
        types=side.type_vocab_size,
        eps=side.layer_norm_eps,
        activation=side.hidden_act,
        pad=side.pad_token_id,
    )
