"""The balloon driver: queues of ballooned pages, the worker, and the migration of ballooned pages."""
