"""The released code of LiveEdit on a model of today's transformers, as ``compare.py`` calls it.

The released code reads a LLaVA of transformers 4.44 in three places, which :func:`adapter` writes
anew: embeddings of text and image, the text decoder, and facts about the config. Everything else
runs from the clone as it stands.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from PIL.Image import new
from torch import Tensor

from liveedit.editors.common.bank import Bank
from liveedit.editors.liveedit.editor import LiveEdit
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

__all__ = ["Released"]

MODULES = {  # ours: released
    "edit_features": "edit_extractor",
    "input_features": "inpt_extractor",
    "generator.expert_in": "moegen_c",
    "generator.expert_out": "moegen_r",
    "norm": "instant_reps_norm",
}
PARTS = {
    "vision_norm": "layer_norm1",
    "text_norm": "layer_norm2",
    "norm": "layer_norm",
    "phi": "eqe1",
    "psi": "eqe2",
    "rows": "phi",
    "ask": "ca_query_info_ext1",
    "look": "ca_vision_info_ext",
    "read": "ca_query_info_ext2",
    "attention": "ca_lora",
    "query": "q_mlp",
    "key": "k_mlp",
    "value": "v_mlp",
    "sentinel": "vis_rep_prot",
}
POOLS = {  # ours: released
    "vision_keys": "evr_pool",
    "text_keys": "eqr_pool",
    "expert_in": "moe_cs_pool",
    "expert_out": "moe_rs_pool",
}


def adapter(vlm: VLM, base: type[Any]) -> Any:
    """A released ``BaseVLLMForEdit`` around a LLaVA, whose images all have as many tokens."""
    image_tokens = len(vlm.image_states(new("RGB", (64, 64))))

    class Llava(base):  # type: ignore[misc]
        """The calls of the released ``LlavaForEdit``, by today's names."""

        def __init__(self) -> None:
            self.processor = vlm.processor
            super().__init__(vlm.model, "cpu", True)

        def get_llm_tokenizer(self) -> Any:
            return self.processor.tokenizer

        def get_llm_input_embeds(
            self, texts: list[str], imgs: list[Any] | None = None
        ) -> tuple[dict[str, Any], list[int] | None]:
            given = self.processor(images=imgs, text=texts, return_tensors="pt", padding=True)
            ids = given["input_ids"]
            embeds = self.model.get_input_embeddings()(ids)
            vt_range = None
            if imgs is not None:
                features = self.model.get_image_features(given["pixel_values"]).pooler_output
                places = (ids == self.get_img_special_token_id())[..., None].expand_as(embeds)
                embeds = embeds.masked_scatter(places, torch.cat(list(features)))
                begin = int(places[0, :, 0].nonzero()[0])
                vt_range = [begin, begin + self.get_img_token_n()]
            mask = given["attention_mask"]
            return {"attention_mask": mask, "inputs_embeds": embeds}, vt_range

        def get_llm_outpt(self, llm_inpt: dict[str, Any], vt_range: Any = None) -> Any:  # noqa: ARG002
            known = {name: llm_inpt[name] for name in ("attention_mask", "inputs_embeds")}
            states = self.model.model.language_model(**known, use_cache=False)[0]
            return SimpleNamespace(logits=self.model.lm_head(states))

        def get_img_special_token_str(self) -> str:
            return "<image>"

        def get_img_special_token_id(self) -> int:
            return int(self.model.config.image_token_id)

        def get_img_token_n(self) -> int:
            return image_tokens

        def is_q_former_based(self) -> bool:
            return False

    return Llava()


class Released:
    """The released editor with the weights of ours, on a copy of the model."""

    def __init__(self, clone: Path, editor: LiveEdit) -> None:
        sys.path.insert(0, str(clone))
        from editor.vllm_editors.liveedit.liveedit import (  # type: ignore[import-not-found]
            LiveEdit as TheirLiveEdit,
        )
        from editor.vllm_editors.liveedit.liveedit import LiveEditConfig
        from editor.vllms_for_edit.base import BaseVLLMForEdit  # type: ignore[import-not-found]

        c = editor.config
        settings = {
            "edit_model_name": "llava-v1.5-7b",
            "retrieval_editor": LiveEditConfig.RetrievalEditor(
                c.module_dim, c.heads, c.rank, int(c.scale), c.queries
            ),
            "train_cfg": LiveEditConfig.TrainConfig(1e-4, [10_000], 0.1, 1, 1, 1, 1, 1),
            "llm_mid_dim": editor.vlm.hidden_size,
            "llm_layer_tmp": "model.language_model.layers.{}",
            "edit_layer_i": editor.layer,
        }
        # It keeps a hook on its model, and training needs a second one without.
        self.vlm = adapter(deepcopy(editor.vlm), BaseVLLMForEdit)
        apart = adapter(deepcopy(editor.vlm), BaseVLLMForEdit)
        self.editor = TheirLiveEdit(self.vlm, LiveEditConfig(**settings), "cpu", apart, "cpu")
        self.editor.random_seed = 0
        self.editor.other_train_init_begin()
        self.load(editor)

    def load(self, editor: LiveEdit) -> None:
        """Take over the weights of our networks."""
        for ours, theirs in MODULES.items():
            own = editor.networks().get_submodule(ours).state_dict()
            parts = own if ours == "norm" else _renamed(own)
            getattr(self.editor, theirs).load_state_dict(parts)

    def fill(self, bank: Bank) -> None:
        """Make the experts of a bank the whole pool."""
        self.editor.restore_to_original_model()
        self.editor.requests_pool = [None] * len(bank)
        for ours, theirs in POOLS.items():
            setattr(self.editor, theirs, bank[ours].clone())

    @property
    def pool(self) -> dict[str, Tensor]:
        """The experts of the pool, under our names."""
        return {ours: getattr(self.editor, theirs).detach() for ours, theirs in POOLS.items()}

    @torch.no_grad()
    def edit(self, query: Query) -> None:
        """Add one edit to the pool."""
        self.editor.edit_one_piece(
            {"prompt": query.prompt, "image": query.image, "target_new": query.target}
        )

    def edit_each(self, queries: Sequence[Query]) -> None:
        """Add edits one by one."""
        for query in queries:
            self.edit(query)

    @torch.no_grad()
    def logits(self, query: Query) -> Tensor:
        """The logits (n, V) that predict the n tokens of the query's target."""
        (given, vt_range), _, mask = self.vlm.prompts_imgs_target_to_xym(
            [query.prompt], [query.image], [query.target]
        )
        given["query_range"] = (0, given["inputs_embeds"].shape[1] - mask.shape[1] + 1)
        logits = self.vlm.get_llm_outpt(given, vt_range).logits
        return logits[0, -mask.shape[1] :][mask[0].bool()]  # type: ignore[no-any-return]

    def logits_each(self, queries: Sequence[Query]) -> None:
        """The logits of each query."""
        for query in queries:
            self.logits(query)

    def organized(self, cases: Sequence[Case]) -> Any:
        """A training batch with its hidden states."""
        return self.editor.organize_batch_data([_released_case(case) for case in cases])

    def start_training(self) -> None:
        """Make an optimiser, with a learning rate of 0, so that all steps are alike."""
        self.editor.set_train(True)
        self.editor.opt, self.editor.lr_scheduler = self.editor.get_a_new_optimizer()
        for group in self.editor.opt.param_groups:
            group["lr"] = group["initial_lr"] = 0.0
        self.editor.lr_scheduler.base_lrs = [0.0]

    def step(self, organized: Any) -> None:
        """One training step."""
        self.editor.train_a_batch(organized)

    def evaluate(self, cases: Sequence[Case], windows: Sequence[int]) -> None:
        """Whole evaluations: for each N all cases, N edits at a time."""
        from evaluation.vllm_editor_eval import (  # type: ignore[import-not-found]
            VLLMEditorEvaluation,
        )

        shown = [_released_case(case) for case in cases]
        named = [_released_case(case, images=False) for case in cases]
        data = SimpleNamespace(data_with_img=shown, data_with_img_path=named)
        with TemporaryDirectory() as folder, torch.no_grad():
            whole = VLLMEditorEvaluation(self.editor, data, "cases", folder)
            for count in windows:
                whole.evaluate_sequential_edit(count)

    def end_training(self) -> None:
        """Go on with inference."""
        self.editor.set_train(False)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's weights by the released names."""
    return {
        ".".join(PARTS.get(part, part) for part in name.split(".")): value
        for name, value in state.items()
    }


def _released_case(case: Case, images: bool = True) -> dict[str, Any]:
    """A case in the form of the released data."""
    edit = case.edits[0]
    probes: dict[str, dict[str, list[dict[str, Any]]]] = {"generality": {}, "locality": {}}
    for probe in case.probes:
        query = probe.query
        group = probes["generality" if probe.wanted == "target" else "locality"]
        image = query.image if images else ""
        row = {"prompt": query.prompt, "image": image, "target": query.target}
        group.setdefault(probe.metric, []).append(row)
    image = edit.image if images else ""
    request = {"prompt": edit.prompt, "image": image, "target_new": edit.target}
    return {"requests": [request], **probes}
