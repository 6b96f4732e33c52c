"""Lists the files beside a model's weights that loaders read: they go along with a merge."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.files.document import MAX_COPIED_BYTES, check_size, copy_file
from evomerge.core.errors import UserError

# As transformers' tokenizers name their files (vocab_files_names), and as hub repositories have
# them beside: tiktoken, Mistral's tekken, several versions of one sentencepiece model.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model*",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tiktoken.*",
    "tekken.json",
    "vocab*.json",
    "*_vocab.json",
    "vocab*.txt",
    "merges.txt",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "normalizer.json",
    "prophetnet.tokenizer",
    "word_*.json",
    "chat_template*.jinja",
    "chat_template*.json",
    "additional_chat_templates/*.jinja",
)
# Processors of images, sound and video; sentence-transformers' modules.
GENERATION = "generation_config.json"
PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "audio_tokenizer_config.json",
    "feature_extractor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
)
LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*", "*_USE_POLICY*")
ALL = (*TOKENIZER, GENERATION, *PROCESSORS, *LICENCES)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def companions(folder: Path, patterns: tuple[str, ...] = ALL) -> list[Path]:
    """Return the files of a model's folder that loaders read beside config and weights, by name.

    Raises:
        UserError: One is a link that leaves the folder, or larger than any such file.
    """
    files = {
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file() and not path.name.endswith(_WEIGHTS)
    }
    for path in sorted(files):
        if path.parent != folder and path.parent.is_symlink():
            raise UserError(f"{path.parent}: a link to a folder; put the folder itself there")
        check_size(path, MAX_COPIED_BYTES)
    return sorted(files)


def copy_companions(folder: Path, out: Path, patterns: tuple[str, ...]) -> None:
    """Copy those files into another folder, under the names that they have.

    Raises:
        UserError: One is a link that leaves the folder, or larger than any such file.
    """
    for file in companions(folder, patterns):
        target = out / file.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        copy_file(file, target)


def copy_licences(folder: Path, out: Path, name: str) -> None:
    """Copy licence files too; one that differs from what is there gets the model's name behind.

    Raises:
        UserError: One is a link that leaves the folder, or larger than any such file.
    """
    for file in companions(folder, LICENCES):
        target = out / file.name
        if target.exists() and target.read_bytes() != file.read_bytes():
            target = out / f"{file.name}.{name}"
        if not target.exists():
            copy_file(file, target)
