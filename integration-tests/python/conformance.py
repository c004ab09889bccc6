"""Takes part beside other clients on one lock, for a test that reads what it prints.

    conformance.py ADDR count NAME FILE ROUNDS   adds ROUNDS to the number in FILE, one a grant;
                                                 prints each token
    conformance.py ADDR hold NAME                prints the token, holds until a line arrives on
                                                 stdin, prints the outcome of the release
    conformance.py ADDR lose NAME                prints the token; from a line on stdin on it sends
                                                 no keepalives. When check() says that the lock is
                                                 lost, prints how many seconds after the last
                                                 keepalive was sent that was; how many check() last
                                                 said that it held; and when that was on the
                                                 monotonic clock
"""

import sys
from pathlib import Path
from time import monotonic, sleep

from lockd import Client, LockLost

TTL = 3.0  # for `lose`: long enough for a link whose answers take a second


def say(*words):
    print(*words, flush=True)


def count(client, name, file, rounds):
    file = Path(file)
    for _ in range(int(rounds)):
        with client.lock(name, wait=60) as held:
            # Read, then written: an update is lost if two are in here at once.
            number = int(file.read_text())
            sleep(0.005)  # Time for somebody else to come in, if the lock would let them.
            held.check()
            file.write_text(str(number + 1))
            say(held.token)


def hold(client, name):
    held = client.lock(name)
    say(held.token)
    sys.stdin.readline()
    held.check()
    say(held.release())


def lose(client, name):
    held = client.lock(name)
    say(held.token)
    sys.stdin.readline()
    held.session.stopped.set()
    while True:
        # Read before the check: the check was made then or later.
        now = monotonic()
        try:
            held.check()
        except LockLost:
            break
        sure = now
        sleep(0.001)
    lost, sent = monotonic(), held.session.sent
    say(f"{lost - sent:.3f} {sure - sent:.3f} {sure:.6f}")


def main(address, command, *args):
    ttl = TTL if command == "lose" else 15.0
    with Client(address, ttl=ttl) as client:
        {"count": count, "hold": hold, "lose": lose}[command](client, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
