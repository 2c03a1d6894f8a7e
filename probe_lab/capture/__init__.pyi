from probe_lab.capture.capture import Capture as Capture
from probe_lab.taps import Tap as Tap
