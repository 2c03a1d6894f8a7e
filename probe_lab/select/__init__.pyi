from probe_lab.select.schedule import Cut as Cut
from probe_lab.select.select import SCHEDULERS as SCHEDULERS
from probe_lab.select.select import ProbeSelect as ProbeSelect
from probe_lab.select.select import Selection as Selection
