"""The ways out of the engine: the wire's codec, the TCP and Unix stream, ZeroMQ."""
