"""What the original documentation shows, word for word."""

RESNET18 = """\
# WandB logging
wandb_project: "distqat"
experiment_prefix: "resnet18"

# Dataset configuration
data:
  dataset_name: "uoft-cs/cifar10"
  dataset_split: "train"
  task_type: "cv"
  num_workers: 0
  precision: "fp16-mixed"
  num_channels: 3
  img_size: 32

# DiLoCo optimization settings
diloco:
  inner_optim:
    type: "adam"
    adam_lr: 4e-4
    adam_weight_decay: 0.1
  outer_optim:
    type: "sgd"
    sgd_lr: 0.07
    sgd_momentum: 0.9
    sgd_nesterov: true
  inner_steps: 500      # Local optimization steps
  outer_steps: 100      # Global synchronization steps
  batch_size_per_step: 64
  averaging_timeout: 60.0

# Model pipeline stages
model_pipeline:
  pipeline:
    - model_name: "resnet18.front"
      num_classes: 10
    - model_name: "resnet18.back"
      num_classes: 10
  forward_timeout: 90.0
  backward_timeout: 180.0

# Checkpointing
param_mirror:
  enable: true
  refresh_every: 30
  checkpoint_dir: "checkpoints/resnet18"

# Device settings
world_size: 2
device: "cuda"
max_expert_index: 128
"""
