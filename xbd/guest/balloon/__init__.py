"""The balloon driver: its back ends, the queues of its pages, the worker, migration, and slots for foreign pages."""
