"""The face world: rendered portraits with exact labels, made on a CPU.

    python -m ohlora.faces --count 100 --seed 1 --size 128 --processes 2 --output faces

See `ohlora.faces.render.render` for one picture. Needs the extra `faces` (anny, warp-lang, opencv).
"""
