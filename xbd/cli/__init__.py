"""The `xbd` command. Each of its commands is a small shell around pure modules.

In the order to read them: `main` (the table of commands, imported when they are used), `common` (options, errors,
output), then a module of `commands`. Pure are `tables`, `render`, `progress`, `top_view` and `map_view`: values to lines of
text; `follow` sets targets and follows the domains until they are there.
"""
