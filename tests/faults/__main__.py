"""``python -m tests.faults``: the fault campaign; see campaign.py."""

import signal
import sys

from tests.faults.campaign import main

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
sys.exit(main())
