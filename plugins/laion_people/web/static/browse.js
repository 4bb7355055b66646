// The browsers' keys; the caption form, which asks the server about every caption while it is being typed; and the button
// that starts a run.
'use strict'

function toggleViews() {
  for (const svg of document.querySelectorAll('.picture')) {
    const isWhole = svg.classList.toggle('whole')
    svg.setAttribute('viewBox', isWhole ? svg.dataset.whole : svg.dataset.crop)
  }
}

function toggle(what) {
  document.getElementById(`hide-${what}`)?.click()
  if (what !== 'box') return
  for (const list of document.querySelectorAll('.boxes-pointed, .boxes-always')) {
    list.classList.toggle('boxes-pointed')
    list.classList.toggle('boxes-always')
  }
}

const KEYS = {
  w: toggleViews,
  b: () => toggle('box'),
  s: () => toggle('pose'),
  f: () => toggle('mesh'),
  n: () => document.querySelector('[data-key=n]')?.click(),
  p: () => document.querySelector('[data-key=p]')?.click(),
  e: () => document.querySelector('.captions textarea')?.focus(),
}

addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById('keys').open) return
  if (event.target.closest('input:not([type=checkbox], [type=radio]), textarea, select') || !KEYS[event.key]) return
  event.preventDefault()
  KEYS[event.key]()
})

class CaptionForm {
  constructor(form) {
    this.form = form
    this.list = form.querySelector('ol')
    this.asked = 0
    form.addEventListener('input', () => this.checkSoon())
    form.addEventListener('click', event => this.click(event.target))
    form.addEventListener('keydown', event => this.key(event))
    for (const button of form.querySelectorAll('.add, .remove')) button.hidden = false
    form.querySelector('template').content.querySelector('.remove').hidden = false
    this.check()
  }

  click(target) {
    if (target.matches('.remove')) target.closest('li').remove()
    else if (target.matches('.add')) {
      this.list.append(this.form.querySelector('template').content.cloneNode(true))
      this.list.lastElementChild.querySelector('textarea').focus()
    } else return
    this.check()
  }

  key(event) {
    if (event.key !== 'Enter' || !event.target.matches('textarea')) return
    event.preventDefault() // a caption is one line
    if (event.ctrlKey || event.metaKey) this.form.requestSubmit(this.form.querySelector('[value=next]'))
  }

  checkSoon() {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.check(), 150)
  }

  async check() {
    const lines = [...this.list.children]
    const body = new URLSearchParams(lines.flatMap(line => [...line.querySelectorAll('[name]')].map(field => [field.name, field.value])))
    const turn = ++this.asked
    const answer = await fetch(this.form.dataset.check, { method: 'POST', body, credentials: 'same-origin' }).catch(() => null)
    if (!answer?.ok || turn !== this.asked) return // the server looks at them again when they are sent
    const { fault, captions, claims } = await answer.json()
    lines.forEach((line, i) => {
      const field = name => line.querySelector(`[name=${name}]`)
      if (claims[i] !== field('claims').value) { // suggested, since the caption is another one
        field('seen').value = field('caption').value
        field('claims').value = field('said').value = claims[i]
      }
      line.querySelector('.fault').textContent = captions[i]
      line.querySelector('textarea').setAttribute('aria-invalid', captions[i] !== '')
    })
    const whole = this.form.querySelector('[data-fault]')
    whole.textContent = captions.includes(fault) ? '' : fault
  }
}

for (const form of document.querySelectorAll('form.captions')) new CaptionForm(form)

// Asks Airflow's own API, which looks at the user's rights, for a run that takes edited captions up.
async function rederive(button) {
  const status = button.nextElementSibling
  const body = JSON.stringify({ logical_date: null, conf: { clusters: button.dataset.version } })
  const headers = { 'Content-Type': 'application/json' }
  button.disabled = true
  try {
    const answer = await fetch(button.dataset.runs, { method: 'POST', headers, body, credentials: 'same-origin' })
    if (!answer.ok) throw new Error(`Airflow answers ${answer.status} ${await answer.text()}`)
    const { dag_run_id: run } = await answer.json()
    const link = Object.assign(document.createElement('a'), { target: '_top', textContent: 'Look at the run.' })
    link.href = button.dataset.run + encodeURIComponent(run)
    status.replaceChildren('A run has started. ', link)
  } catch (error) {
    status.textContent = `No run has started: ${error.message}`
    button.disabled = false
  }
}

for (const button of document.querySelectorAll('.rederive')) {
  button.hidden = false
  button.addEventListener('click', () => rederive(button))
}
