import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    // The charts are one chunk of some 600 kB, loaded when the first chart is drawn.
    chunkSizeWarningLimit: 800,
    // Nothing inline: the Content-Security-Policy allows own files only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/api": "http://127.0.0.1:8765" } },
});
