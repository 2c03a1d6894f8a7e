from probe_lab.tracking.entries import CellRun as CellRun
from probe_lab.tracking.sweeps import Tracker as Tracker
from probe_lab.tracking.sweeps import log_report as log_report
from probe_lab.tracking.sweeps import track as track
from probe_lab.tracking.sweeps import tracking_uri as tracking_uri
