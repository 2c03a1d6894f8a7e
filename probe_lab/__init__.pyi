from probe_lab.backbones.pipelines import load_pipeline as load_pipeline
from probe_lab.cache import Cache as Cache
from probe_lab.capture import Capture as Capture
from probe_lab.capture import Tap as Tap
from probe_lab.config import Experiment as Experiment
from probe_lab.config import load_experiment as load_experiment
from probe_lab.errors import ProbeLabError as ProbeLabError
from probe_lab.evaluators import Evaluator as Evaluator
from probe_lab.evaluators import register as register_evaluator  # noqa: F401
from probe_lab.losses import Loss as Loss
from probe_lab.losses import register_loss as register_loss
from probe_lab.probes import ProbeKind as ProbeKind
from probe_lab.probes import load_probe as load_probe
from probe_lab.probes.kinds import register_probe as register_probe
from probe_lab.probes.shipped import shipped_probe as shipped_probe
from probe_lab.runs import Runs as Runs
from probe_lab.selection import ProbeSelect as ProbeSelect
from probe_lab.sweep import run_sweep as run_sweep
from probe_lab.verbs import generate_images as generate_images
from probe_lab.verbs import score_images as score_images
from probe_lab.verbs import track as track
from probe_lab.verbs import train_probe as train_probe
from probe_lab.verbs import write_report as write_report

__version__: str
