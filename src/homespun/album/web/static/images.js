/* Loads pictures when they come near the window: natively, by IntersectionObserver, or by looking on scroll. */
(function () {
  'use strict';

  var native = 'loading' in HTMLImageElement.prototype;
  var MARGIN = 800;
  var waiting = [];
  var looking = false;

  function load(image) {
    image.src = image.getAttribute('data-src');
    image.removeAttribute('data-src');
  }

  /* A picture fades in when it is there. Where a large one cannot be had (its drive is away) the small one stands in;
     where there is none, the frame stays, never a broken-image sign. */
  function settled(image, there) {
    var instead = !there && image.getAttribute('data-instead');
    if (instead) {
      image.removeAttribute('data-instead');
      image.src = instead;
    } else {
      image.classList.add(there ? 'loaded' : 'failed');
    }
  }
  ['load', 'error'].forEach(function (kind) {
    document.addEventListener(kind, function (event) {
      if (event.target.tagName === 'IMG') { settled(event.target, kind === 'load'); }
    }, true);
  });
  // What failed before this script ran told nobody.
  [].forEach.call(document.images, function (image) {
    if (image.complete && image.getAttribute('src') && !image.naturalWidth) { settled(image, false); }
  });

  var observer = !native && window.IntersectionObserver ? new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.intersectionRatio > 0 || entry.isIntersecting) {
        observer.unobserve(entry.target);
        load(entry.target);
      }
    });
  }, { rootMargin: MARGIN + 'px' }) : null;

  function look() {
    looking = false;
    waiting = waiting.filter(function (image) {
      if (!document.body.contains(image)) { return false; }
      var place = image.getBoundingClientRect();
      var near = place.bottom > -MARGIN && place.top < window.innerHeight + MARGIN &&
        place.right > -MARGIN && place.left < window.innerWidth + MARGIN;
      if (near) { load(image); }
      return !near;
    });
  }

  function lookSoon() {
    if (!looking && waiting.length) { looking = true; setTimeout(look, 100); }
  }

  /* Take care of the pictures inside `root` that wait to be loaded. */
  function images(root) {
    var found = root.querySelectorAll('img[data-src]');
    for (var i = 0; i < found.length; i++) {
      if (native) { found[i].loading = 'lazy'; load(found[i]); }
      else if (observer) { observer.observe(found[i]); }
      else { waiting.push(found[i]); }
    }
    lookSoon();
  }

  if (!native && !observer) {
    window.addEventListener('scroll', lookSoon, true);
    window.addEventListener('resize', lookSoon);
  }

  window.Homespun.images = images;
  images(document);
}());
