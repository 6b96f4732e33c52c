"""Reads LoRA adapters from PEFT folders, and applies them to the model they were trained on."""
