// A Worker in a hidden iframe, for browsers that give a page opened as a file no real one: the search needs it there.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inner = (this.inner = frame.contentWindow)
      inner.document.write("<html><body></body></html>")
      inner.document.close()
      const script = inner.document.createElement("script")
      script.src = new URL(url, location)
      this.loaded = new Promise((resolve) => (script.onload = resolve))
      inner.document.body.appendChild(script)
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
    }
    postMessage(data) {
      this.loaded.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.inner.frameElement.remove()
    }
  }
