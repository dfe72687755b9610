"""What an installer needs beside an open cabinet: find, read, watch, diagnose and address sensors on a wire.

Owns: nothing of the running service, which never imports it. Promises: reads only, except `address`, which asks first.
Never: uses a port the service has not lent.
"""
