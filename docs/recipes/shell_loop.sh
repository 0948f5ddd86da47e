#!/bin/sh
# A loop in shell that beats by systemd-notify(1):
#
#     nanny run --notify-access all … -- ./shell_loop.sh
#
# systemd-notify is a child of the shell, so its datagrams come from another process than the one that is supervised.
# As root it speaks in its parent's name and `--notify-access main` would do; as any other user it can not, hence `all`.
# `|| :`: while the nanny is being upgraded nobody listens for a moment, and `set -e` must not end the loop for that.
set -eu

trap 'systemd-notify STOPPING=1 || :; exit 0' TERM

systemd-notify --ready --status="waiting for work" || :
while :; do
    # One piece of work goes here. It must be shorter than the timeout, or beat in between.
    systemd-notify WATCHDOG=1 || :
    # In the background, so that SIGTERM is not kept waiting until the sleep ends.
    sleep "${PAUSE_S:-2}" &
    wait $! || :
done
