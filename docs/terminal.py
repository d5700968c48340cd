#!/usr/bin/python3
"""Renders the recorded output of a program on a terminal as an SVG picture. Called by terminal.sh.

It reads the output from standard input and writes the picture to standard output. It knows the control sequences
that coracle writes: position of the cursor, erasing to the end of the line or of the screen, attributes, private
modes (ignored). Standard library only.
"""

import argparse
import re
import sys
from html import escape

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN, TITLE_HEIGHT = 8, 18, 13, 16, 30
BACKGROUND, FOREGROUND, FAINT, TITLE, PROMPT = "#1c2128", "#d5dbe3", "#8b949e", "#2d333b", "#7ee787"
SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
PLAIN = (FOREGROUND, False, False)  # colour, bold, reverse


class Screen:
    """The cells of a terminal: a character and its attributes each."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.row = self.column = 0
        self.attributes = PLAIN
        self.cells = [self.empty_line() for _ in range(rows)]

    def empty_line(self):
        return [(" ", PLAIN)] * self.columns

    def write(self, text):
        at = 0
        while at < len(text):
            found = SEQUENCE.match(text, at)
            if found:
                self.control(*found.groups())
                at = found.end()
            else:
                self.character(text[at])
                at += 1

    def character(self, char):
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row += 1
            if self.row == self.rows:
                self.cells = self.cells[1:] + [self.empty_line()]
                self.row -= 1
        elif char >= " " and self.column < self.columns:
            self.cells[self.row][self.column] = (char, self.attributes)
            self.column += 1

    def control(self, private, numbers, final):
        values = [int(number) if number else 0 for number in numbers.split(";")]
        if private:
            return
        if final == "H":
            row, column = (values + [1])[:2]
            self.row, self.column = max(row - 1, 0), max(column - 1, 0)
        elif final in "KJ":
            self.cells[self.row][self.column :] = [(" ", PLAIN)] * (self.columns - self.column)
            if final == "J":
                self.cells[self.row + 1 :] = [self.empty_line() for _ in self.cells[self.row + 1 :]]
        elif final == "m":
            for value in values:
                self.attribute(value)

    def attribute(self, value):
        color, bold, reverse = self.attributes
        match value:
            case 0:
                color, bold, reverse = PLAIN
            case 1:
                bold = True
            case 2:
                color = FAINT
            case 7:
                reverse = True
            case 32:
                color = PROMPT
        self.attributes = (color, bold, reverse)

    def runs(self, row):
        """The parts of a line with equal attributes: column, text, attributes."""
        start, cells = 0, self.cells[row]
        for column in range(1, self.columns + 1):
            if column == self.columns or cells[column][1] != cells[start][1]:
                yield start, "".join(char for char, _ in cells[start:column]), cells[start][1]
                start = column

    def used_rows(self):
        used = [row for row in range(self.rows) if any(char != " " for char, _ in self.cells[row])]
        return max(used, default=0) + 1


def picture(screen, title):
    """The screen as SVG. Each text states its length, so that columns align in every font."""
    rows = screen.used_rows()
    width = 2 * MARGIN + screen.columns * CELL_WIDTH
    height = TITLE_HEIGHT + 2 * MARGIN + rows * CELL_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace"'
        f' font-size="{FONT_SIZE}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
        f'<path d="M0 {TITLE_HEIGHT}V8a8 8 0 0 1 8-8H{width - 8}a8 8 0 0 1 8 8V{TITLE_HEIGHT}Z" fill="{TITLE}"/>',
        f'<text x="{width // 2}" y="20" text-anchor="middle" fill="{FAINT}">{escape(title)}</text>',
    ]
    for row in range(rows):
        for column, text, attributes in screen.runs(row):
            lines += parts(column, TITLE_HEIGHT + MARGIN + row * CELL_HEIGHT, text, attributes)
    return "\n".join(lines + ["</svg>", ""])


def parts(column, top, text, attributes):
    """The elements of one run: a rectangle for reversed text, and the text without blanks around it."""
    color, bold, reverse = attributes
    bare = text.strip()
    if reverse:
        size = f'width="{len(text) * CELL_WIDTH}" height="{CELL_HEIGHT}"'
        yield f'<rect x="{MARGIN + column * CELL_WIDTH}" y="{top}" {size} fill="{color}"/>'
        color = BACKGROUND
    if bare:
        left = MARGIN + (column + len(text) - len(text.lstrip())) * CELL_WIDTH
        weight = ' font-weight="bold"' if bold else ""
        length = f'xml:space="preserve" textLength="{len(bare) * CELL_WIDTH}"'
        yield f'<text x="{left}" y="{top + 13}" fill="{color}"{weight} {length}>{escape(bare)}</text>'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--prompt", help="the command line that was typed")
    wanted = parser.parse_args()
    screen = Screen(wanted.columns, wanted.rows)
    if wanted.prompt:
        screen.write(f"\x1b[32m#\x1b[0m \x1b[1m{wanted.prompt}\x1b[0m\r\n")
    screen.write(sys.stdin.buffer.read().decode("utf-8", "replace"))
    sys.stdout.write(picture(screen, wanted.title))


main()
