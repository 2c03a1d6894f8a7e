from probe_lab.tracking.commands import Tracked as Tracked
from probe_lab.tracking.commands import Tracker as Tracker
from probe_lab.tracking.commands import log_report as log_report
from probe_lab.tracking.commands import sync_runs as sync_runs
from probe_lab.tracking.commands import track as track
from probe_lab.tracking.commands import tracking_uri as tracking_uri
