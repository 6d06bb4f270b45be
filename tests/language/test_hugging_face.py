"""A model of Hugging Face, made on the spot; skipped where transformers is not installed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from fedstrategies.data.errors import DataError
from fedstrategies.language import calibration_batches, load_language_model, perplexity
from fedstrategies.pruning import Unstructured, linear_blocks, parse_method, prune_module
from tests.language.tiny import TEXT

transformers = pytest.importorskip("transformers")


def write_llama(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({*TEXT.split(), "<unk>"})
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def test_a_llama_is_loaded_calibrated_pruned_and_evaluated(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        write_llama(tmp_path)
    model = load_language_model(str(tmp_path))
    assert model.context == 32
    tokens = model.encode(TEXT * 10)
    dense = perplexity(model, tokens, length=16)
    blocks = linear_blocks(model.module)
    assert [block.name for block in blocks] == ["model.layers.0", "model.layers.1"]
    assert all(len(block.layers) == 7 for block in blocks)
    batches = calibration_batches(tokens, samples=4, length=16, seed=0)
    layers = prune_module(
        model.module,
        batches,
        method=parse_method("ria"),
        pattern=Unstructured(sparsity=0.5),
        forward=model.scores,
    )
    assert all(layer.kept == layer.size // 2 for layer in layers)
    assert perplexity(model, tokens, length=16).nats != dense.nats


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("LlamaForCausalLM", {"num_key_value_heads": 2, "intermediate_size": 24}),
        ("OPTForCausalLM", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    ],
)
def test_outputs_of_blocks_that_are_kept_give_the_same_bits(
    kind: str, config: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """The blocks of these models are chains, whatever else they are handed."""
    model_class = getattr(transformers, kind)
    settings = model_class.config_class(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=32,
        use_cache=False,
        **config,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = model_class(settings).eval()
    draw = torch.Generator().manual_seed(1)
    batches = [torch.randint(0, 13, (2, 12), generator=draw) for _ in range(3)]
    found = []
    for keep_outputs in (True, False):
        module = copy.deepcopy(dense)
        prune_module(
            module,
            batches,
            method=parse_method("r2-dsnot"),
            pattern=Unstructured(sparsity=0.5),
            forward=lambda module, tokens: module(input_ids=tokens),
            keep_outputs=keep_outputs,
        )
        found.append(module.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert "no chain" not in caplog.text


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_language_model(str(tmp_path))
    assert "\n" not in str(caught.value)
