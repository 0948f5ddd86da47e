"""How a worker is asked for its stacks: the descriptor it writes them to, and the signal that asks.

A real-time signal, because programs of others give SIGUSR1 and SIGUSR2 meanings of their own (some re-execute
themselves), and because a handler seen in SigCgt for this number means what we mean by it. Its default action
ends a process: send it only to one that has a handler. signal(7).
"""

from typing import Final

STACKS_FD_VARIABLE: Final = "NANNY_STACKS_FD"
STACK_SIGNAL: Final = 41
"""SIGRTMIN+7 by glibc's counting; a number, for libc implementations count differently."""
