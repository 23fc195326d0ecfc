"""evomerge: merging, genomes' fate, search and memory; knows neither HTTP nor Ray.

Map: `candidate`, `errors`, `seeds` (values) · `models` (checkpoints, architectures) · `recipe` (what a merged model is)
· `merge` (recipe → weights) · `optimizers` (ask and tell) · `archive` (fronts) · `storage` (what lasts) · `run` (the
search as a state machine) · `testing` (contracts that plug-ins inherit).
"""

__version__ = "0.1.0"
