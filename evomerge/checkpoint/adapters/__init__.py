"""LoRA adapters read from PEFT folders, alone and applied to the model they were trained on."""
