#!/bin/sh
echo "script of $(id -un) with <$1>"
