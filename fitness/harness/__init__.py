"""Tasks of the LM Evaluation Harness as eval sets. What makes them needs the extra `harness`; what reads them does not.

tasks     which tasks a name, a group or a YAML file stands for, with their data, examples and seeds
questions a task's requests → items
metrics   the task's metrics → ours, and what ours cannot say
card      what a task was, beside the eval set's file: NAME.task.yaml
export    tasks → JSONL files and cards
judge     `harness:` metrics: the task's own filters and `process_results` on our raw answers

Gao et al., A framework for few-shot language model evaluation, 10.5281/zenodo.12608602.
"""
