"""The county's side of the MQTT contract: a reference subscriber, small enough to start from.

`messages.py` reads, `database.py` and `store.py` keep, `subscriber.py` listens and answers, `errands.py` decides what
to ask for, `rates.py` reckons. Runs on the county's machine; the gateway never imports it.
"""
