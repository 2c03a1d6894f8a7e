from probe_lab.capture.capture import Capture as Capture
from probe_lab.capture.taps import Tap as Tap
