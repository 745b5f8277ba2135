"""How the model is told of apply_patch: the instructions and the grammar of a patch.

Texts only. The grammar is narrower than what is read: what the model samples needs no lenience.
"""

from __future__ import annotations

INSTRUCTIONS = """\
Use `apply_patch` to edit files. Its input is a patch as plain text, not JSON:

*** Begin Patch
[one or more file sections]
*** End Patch

Each section begins with one of three headers:

*** Add File: <path> - create a new file. Every following line begins with + (the content).
*** Delete File: <path> - remove an existing file. Nothing follows.
*** Update File: <path> - patch an existing file in place.

An update may go on with *** Move to: <new path> to rename the file. Then come hunks, each \
introduced by @@, optionally followed by a line that stands above the change, such as the class or \
function. Within a hunk each line starts with a space (context), - (removed) or + (inserted).

- Show 3 lines of context above and below each change. If that does not tell the place apart, name \
the class or function after @@; several @@ lines in a row narrow it down:
@@ class BaseClass
@@     def method(self):
- Hunks come in the order of the file. Context and removed lines must be equal to those of the file.
- *** End of File after a hunk's lines says that they are the last of the file.
- Paths are relative, never absolute.

For example:

*** Begin Patch
*** Add File: hello.txt
+Hello world
*** Update File: src/app.py
*** Move to: src/main.py
@@ def greet():
-print("Hi")
+print("Hello, world!")
*** Delete File: obsolete.txt
*** End Patch"""

GRAMMAR = """\
start: "*** Begin Patch" LF section+ "*** End Patch" LF?
section: add | delete | update
add: "*** Add File: " path LF ("+" text LF)+
delete: "*** Delete File: " path LF
update: "*** Update File: " path LF ("*** Move to: " path LF change? | change)
change: first hunk* | hunk+
first: line+ end_of_file?
hunk: context+ line+ end_of_file?
context: "@@" (" " path)? LF
line: ("+" | "-" | " ") text LF
end_of_file: "*** End of File" LF
path: /[^\\n]+/
text: /[^\\n]*/
LF: "\\n"
"""
