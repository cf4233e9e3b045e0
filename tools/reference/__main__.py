"""Write the pages."""

from tools.reference.pages import FOLDER, PAGES

for name, write in PAGES.items():
    (FOLDER / name).write_text(write(), encoding="utf-8")
    print(FOLDER / name)
