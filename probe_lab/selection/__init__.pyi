from probe_lab.selection.probe_select import SCHEDULERS as SCHEDULERS
from probe_lab.selection.probe_select import ProbeSelect as ProbeSelect
from probe_lab.selection.probe_select import Selection as Selection
from probe_lab.selection.schedule import Cut as Cut
