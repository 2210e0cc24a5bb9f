// Canvases that fit their place, sharp on any screen.

// Makes a canvas as large as it is shown; returns what draws on it, in the pixels of the style sheet, and its size.
export function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return { pen, width, height };
}

// Calls *draw* with the next picture of the screen, once however often it is asked for.
export function drawnOnce(draw) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  };
}

// Draws lines over time into *pen*: *lines* are {points, colour, dashes}, points from 0 to *top*, NaN for none.
export function drawLines(pen, width, height, lines, top) {
  for (const { points, colour, dashes = [], lineWidth = 1.25 } of lines) {
    pen.beginPath();
    pen.setLineDash(dashes);
    pen.strokeStyle = colour;
    pen.lineWidth = lineWidth;
    let isDown = false;
    points.forEach((point, i) => {
      if (Number.isNaN(point)) {
        isDown = false;
        return;
      }
      const x = points.length > 1 ? (i / (points.length - 1)) * (width - 2) + 1 : width / 2;
      const y = height - 1.5 - (point / (top || 1)) * (height - 3);
      if (isDown) pen.lineTo(x, y);
      else pen.moveTo(x, y);
      isDown = true;
    });
    pen.stroke();
  }
  pen.setLineDash([]);
}
