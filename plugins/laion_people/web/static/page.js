// The only script of these pages: Airflow's theme, keyboard keys, and links out of the frame in which Airflow shows them.
'use strict'

const framed = window.parent !== window
const dark = matchMedia('(prefers-color-scheme: dark)')

// Airflow's UI keeps the user's choice of light, dark or system under this name.
function applyTheme() {
  const chosen = localStorage.getItem('theme')
  const isDark = chosen === 'dark' || (chosen !== 'light' && dark.matches)
  document.documentElement.dataset.theme = isDark ? 'dark' : 'light'
}
applyTheme()
addEventListener('storage', applyTheme)
dark.addEventListener('change', applyTheme)

// Airflow's frame lets no page change the window or open another one: the window itself has to follow the link.
function followOutside(event) {
  const link = event.target.closest('a[target]')
  if (!framed || !link || !/^https?:$/.test(link.protocol)) return
  event.preventDefault()
  const twin = parent.document.createElement('a')
  twin.href = link.href
  twin.rel = 'noopener noreferrer'
  twin.target = link.target === '_blank' || event.ctrlKey || event.metaKey || event.shiftKey ? '_blank' : '_self'
  twin.click()
}

function openKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  const typing = event.target.closest('input:not([type=checkbox], [type=radio]), textarea, select')
  const dialog = document.getElementById('keys')
  if (typing || dialog.open) return
  const follow = { j: 'next', ArrowRight: 'next', k: 'prev', ArrowLeft: 'prev' }[event.key]
  const scrollable = event.key.startsWith('Arrow') && event.target.closest('.scroll')
  if (follow && !scrollable) document.querySelector(`a[rel~=${follow}]`)?.click()
  else if (event.key === '/') {
    event.preventDefault()
    document.querySelector('input[type=search]')?.focus()
  } else if (event.key === '?') dialog.showModal()
}

addEventListener('click', followOutside)
addEventListener('keydown', openKey)
addEventListener('DOMContentLoaded', () => {
  document.getElementById('help').addEventListener('click', () => document.getElementById('keys').showModal())
  for (const field of document.querySelectorAll('[data-submits]')) {
    field.addEventListener('change', () => field.form.requestSubmit())
  }
})
