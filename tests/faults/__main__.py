"""``python -m tests.faults``: the fault campaign; see campaign.py."""

import sys

from tests.faults.campaign import main

sys.exit(main())
